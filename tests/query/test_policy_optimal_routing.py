"""Optimal routing: a mean budget met exactly by one price and one coin."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query.base import Estimate
from wye.query.policies import Utility
from wye.query.policies.choosing import targets_of
from wye.query.policies.optimal_routing import OptimalRouting
from wye.query.policy import PolicyError
from wye.testing.policy import check_policy, example_estimate


def _expected(policy: OptimalRouting, estimate: Estimate) -> tuple[float, float]:
    """Mean cost and quality over the coin, from the two ends it chooses between."""
    rows = np.arange(len(estimate))
    cost = quality = 0.0
    for coin, share in ((0.0, 1.0 - policy.coin), (1.0, policy.coin)):
        end = OptimalRouting(budget=policy.budget, price=policy.price, coin=coin)
        target = targets_of(end.choose(estimate, generator=np.random.default_rng(0)))
        cost += share * float(estimate.cost[rows, target].mean())
        quality += share * float(estimate.quality[rows, target].mean())
    return cost, quality


def test_it_keeps_the_contract_of_policies() -> None:
    check_policy(OptimalRouting(price=40.0, coin=0.5))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.87])
def test_the_coin_spends_the_budget_exactly_in_expectation(seed: int, share: float) -> None:
    estimate = example_estimate(60, seed=seed)
    rows = np.arange(60)
    least = float(estimate.cost.min(axis=1).mean())
    most = float(estimate.cost[rows, estimate.quality.argmax(axis=1)].mean())
    budget = least + share * (most - least)
    policy = OptimalRouting(budget=budget).fit(estimate)
    cost, _ = _expected(policy, estimate)
    assert cost == pytest.approx(budget, rel=1e-9)


def test_no_mixture_of_choices_within_the_budget_is_better() -> None:
    from scipy.optimize import linprog

    estimate = example_estimate(25, seed=3)
    budget = 0.0013
    policy = OptimalRouting(budget=budget).fit(estimate)
    _, quality = _expected(policy, estimate)
    n, m = estimate.quality.shape
    each = np.kron(np.eye(n), np.ones((1, m)))
    best = linprog(
        -estimate.quality.ravel() / n,
        A_ub=estimate.cost.reshape(1, -1) / n,
        b_ub=[budget],
        A_eq=each,
        b_eq=np.ones(n),
    )
    assert quality == pytest.approx(-best.fun, rel=1e-8)


def test_without_a_coin_it_is_utility_routing() -> None:
    estimate = example_estimate(50, seed=1)
    own = targets_of(OptimalRouting(price=60.0).choose(estimate))
    np.testing.assert_array_equal(own, targets_of(Utility(cost_weight=60.0).choose(estimate)))


def test_a_budget_beyond_what_quality_spends_is_left() -> None:
    estimate = example_estimate(30, seed=2)
    policy = OptimalRouting(budget=1.0).fit(estimate)
    assert policy.price == 0.0
    best = estimate.quality.argmax(axis=1)
    np.testing.assert_array_equal(targets_of(policy.choose(estimate)), best)


def test_a_coin_between_equals_says_with_what_probability_it_fell() -> None:
    one = np.array([[0.5, 0.5]])
    estimate = Estimate(("a", "b"), one, 0 * one, np.array([[1.0, 3.0]]), one, np.zeros(1))
    policy = OptimalRouting(budget=1.5).fit(estimate)
    assert policy.coin == pytest.approx(0.25)
    met = {}
    for seed in range(60):
        choice = policy.choose(estimate, generator=np.random.default_rng(seed))
        met[int(targets_of(choice)[0])] = float(choice.propensity[0])
    assert met == {0: pytest.approx(0.75), 1: pytest.approx(0.25)}


def test_a_budget_that_pays_for_nothing_is_refused() -> None:
    with pytest.raises(PolicyError, match="the cheapest allowed models cost"):
        OptimalRouting(budget=1e-6).fit(example_estimate(10))
    with pytest.raises(PolicyError, match="budget=-1"):
        OptimalRouting(budget=-1)
