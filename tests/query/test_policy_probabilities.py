"""The probabilities that policies tell are those with which they choose."""

import numpy as np
import pytest

from wye.query.policies import (
    Abstain,
    Budget,
    Cascade,
    CheapestMatch,
    Explore,
    OptimalRouting,
    Quality,
    Threshold,
    Utility,
)
from wye.query.policies.choosing import targets_of
from wye.query.policy import Choice, Policy, PolicyError
from wye.testing.policy import check_policy, example_estimate

DRAWING = [
    Explore(epsilon=0.3),
    Explore(inner=Threshold(quality=0.6), epsilon=1.0),
    Explore(inner=Abstain(default="odd", max_novelty=0.5), epsilon=0.4),
    OptimalRouting(price=0.0, coin=0.25),
    Abstain(inner=Explore(epsilon=0.5), default="odd", max_novelty=0.7, max_std=0.05),
    Abstain(inner=Explore(epsilon=0.5), max_novelty=0.7, max_std=0.05),
]
CERTAIN = [Quality(), Utility(cost_weight=50), Threshold(), CheapestMatch(), Cascade()]


@pytest.mark.parametrize("policy", DRAWING, ids=lambda p: p.describe())
def test_choices_come_as_often_as_their_probabilities_say(policy: Policy) -> None:
    estimate = example_estimate(30)
    if policy.name == "optimal-routing":
        estimate.quality[:] = 0.5
    allowed = np.random.default_rng(1).random((30, 4)) < 0.8
    law = policy.probabilities(estimate, allowed=allowed)
    draws, times = 4000, np.zeros((30, 5))
    rng = np.random.default_rng(2)
    for _ in range(draws):
        target = targets_of(policy.choose(estimate, allowed=allowed, generator=rng))
        times[np.arange(30), target] += 1
    full = np.column_stack([law, 1.0 - law.sum(axis=1)])
    deviation = np.sqrt(full * (1.0 - full) / draws)
    assert (np.abs(times / draws - full) <= 5.0 * deviation + 1e-12).all()


@pytest.mark.parametrize("policy", DRAWING, ids=lambda p: p.describe())
def test_a_policy_that_draws_keeps_the_contract(policy: Policy) -> None:
    check_policy(policy)


@pytest.mark.parametrize("policy", CERTAIN, ids=lambda p: p.name)
def test_a_policy_that_does_not_draw_is_certain_of_its_choice(policy: Policy) -> None:
    estimate = example_estimate(20)
    law = policy.probabilities(estimate)
    assert (law[np.arange(20), targets_of(policy.choose(estimate))] == 1.0).all()
    assert law.sum() == 20.0


def test_a_policy_with_an_account_of_its_own_has_no_probabilities() -> None:
    policy = Budget(total=1.0, horizon=100)
    with pytest.raises(PolicyError, match="account"):
        policy.probabilities(example_estimate(3))
    assert policy.answered_ == 0


def test_a_policy_that_draws_without_telling_is_refused() -> None:
    class Secretive(Quality):
        def choose(self, *args: object, **more: object) -> Choice:
            choice = super().choose(*args, **more)  # type: ignore[arg-type]
            return Choice(choice.plan, choice.score, choice.propensity * 0.5, choice.reasons)

    with pytest.raises(PolicyError, match="probabilities"):
        Secretive().probabilities(example_estimate(3))
