"""Explore and abstain: choices with a propensity, and choices not made."""

import numpy as np
import pytest

from wye.query.base import Estimate
from wye.query.policies import Abstain, Budget, Explore, Quality, Utility
from wye.query.policies.choosing import targets_of
from wye.query.policy import PolicyError
from wye.testing.policy import example_estimate


def repeated(row, n, novelty=0.0):
    quality = np.tile(np.asarray(row, dtype=float), (n, 1))
    return Estimate(tuple("abc"), quality, 0 * quality + 0.1, quality, quality, np.full(n, novelty))


def test_propensities_are_the_frequencies_of_the_choices():
    n = 40_000
    estimate = repeated([0.2, 0.9, 0.4], n)
    allowed = np.array([True, True, False])
    choice = Explore(epsilon=0.3).choose(
        estimate, allowed=allowed, generator=np.random.default_rng(0)
    )
    target = targets_of(choice)
    for model, propensity in ((0, 0.15), (1, 0.85)):
        rows = target == model
        assert np.allclose(choice.propensity[rows], propensity)
        # Four standard errors of a share.
        assert abs(rows.mean() - propensity) < 4 * np.sqrt(propensity * (1 - propensity) / n)
    assert not (target == 2).any()


def test_inverse_propensity_weights_recover_a_policys_value():
    n = 60_000
    rng = np.random.default_rng(1)
    estimate = example_estimate(n, seed=2)
    outcome = (rng.random((n, 4)) < estimate.quality).astype(float)
    choice = Explore(epsilon=0.4).choose(estimate, generator=rng)
    target = targets_of(choice)
    rows = np.arange(n)
    wanted = targets_of(Utility(cost_weight=100).choose(estimate))
    seen = (target == wanted) / choice.propensity
    weighted = seen * outcome[rows, target]
    truth = outcome[rows, wanted].mean()
    assert abs(weighted.mean() - truth) < 4 * weighted.std() / np.sqrt(n)


def test_no_exploration_is_the_inner_policy():
    estimate = example_estimate()
    choice = Explore(epsilon=0.0).choose(estimate, generator=np.random.default_rng(0))
    assert (targets_of(choice) == targets_of(Quality().choose(estimate))).all()
    assert (choice.propensity == 1.0).all()


def test_a_policy_that_randomises_or_keeps_account_is_not_explored():
    with pytest.raises(PolicyError, match="epsilon itself"):
        Explore(inner=Budget(total=1.0))
    twice = Explore(inner=Explore(epsilon=0.5))
    with pytest.raises(PolicyError, match="randomises"):
        twice.choose(example_estimate(), generator=np.random.default_rng(0))


def test_novel_queries_go_to_the_default_and_known_ones_do_not():
    estimate = repeated([0.2, 0.9, 0.4], 3)
    estimate.novelty[:] = (0.1, 0.95, 0.5)
    choice = Abstain(default="a", max_novelty=0.9).choose(estimate)
    assert targets_of(choice).tolist() == [1, 0, 1]
    assert "unlike the training queries (novelty 0.950" in choice.reasons[1][0]


def test_without_a_default_a_doubtful_query_goes_nowhere():
    estimate = repeated([0.2, 0.9, 0.4], 2)
    estimate.quality_std[1] = 0.3
    choice = Abstain(max_std=0.2).choose(estimate)
    assert targets_of(choice).tolist() == [1, -1]
    assert "nowhere" in choice.reasons[1][1]


def test_a_default_that_is_not_allowed_is_not_used():
    estimate = repeated([0.2, 0.9, 0.4], 1, novelty=1.0)
    choice = Abstain(default="a").choose(estimate, allowed=np.array([False, True, True]))
    assert targets_of(choice).tolist() == [-1]


def test_an_unknown_default_is_refused():
    with pytest.raises(PolicyError, match="'z' is none of the models"):
        Abstain(default="z").choose(repeated([0.1, 0.2, 0.3], 1))
