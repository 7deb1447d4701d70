"""Threshold: the cheapest model that is good enough, and the promise of risk control."""

import numpy as np
import pytest

from wye.query.base import Estimate
from wye.query.policies import Threshold
from wye.query.policies.choosing import targets_of
from wye.query.policy import PolicyError
from wye.testing.policy import example_estimate


def boastful(n, rng):
    """Estimates that promise 0.25 too much, and what really came out."""
    true = np.clip(np.array([0.5, 0.7, 0.9]) + rng.normal(0, 0.12, (n, 3)), 0.02, 0.98)
    claimed = np.clip(true + 0.25, 0.0, 1.0)
    cost = np.tile([0.001, 0.01, 0.1], (n, 1))
    outcome = (rng.random((n, 3)) < true).astype(float)
    estimate = Estimate(tuple("abc"), claimed, 0 * claimed, cost, cost, np.zeros(n))
    return estimate, outcome


def kept(policy, estimate, outcome):
    return outcome[np.arange(len(estimate)), targets_of(policy.choose(estimate))]


def test_the_cheapest_model_at_the_cutoff_is_chosen():
    estimate = example_estimate(300)
    target = targets_of(Threshold(quality=0.6).choose(estimate))
    for quality, cost, chosen in zip(estimate.quality, estimate.cost, target, strict=True):
        reaches = [m for m in range(4) if quality[m] >= 0.6]
        expected = min(reaches, key=lambda m: cost[m]) if reaches else int(quality.argmax())
        assert chosen == expected


@pytest.mark.parametrize("n", [40, 300])
def test_the_mean_quality_holds_over_repeated_calibrations(n):
    """E[quality] >= 0.65 over calibration and test queries, though the estimates boast."""
    rng = np.random.default_rng(0)
    values, uncalibrated = [], []
    for _ in range(80):
        policy = Threshold(quality=0.65).calibrate(*boastful(n, rng))
        estimate, outcome = boastful(200, rng)
        values.append(kept(policy, estimate, outcome).mean())
        uncalibrated.append(kept(Threshold(quality=0.65), estimate, outcome).mean())
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) >= 0.65 - 3 * error
    assert np.mean(uncalibrated) < 0.65 - 3 * error


def test_the_cutoff_is_the_least_that_the_bound_allows():
    """Against a naive search over the same grid, query by query."""
    estimate, outcome = boastful(120, np.random.default_rng(1))
    policy = Threshold(quality=0.7).calibrate(estimate, outcome)
    n = len(estimate)
    worst = np.zeros(n)
    least = None
    for cutoff in [np.inf, *np.linspace(1, 0, 401)]:
        probe = Threshold(quality=0.7, cutoff=cutoff)
        worst = np.maximum(worst, 1 - kept(probe, estimate, outcome))
        if n / (n + 1) * worst.mean() + 1 / (n + 1) > 0.3 + 1e-12:
            break
        least = cutoff
    assert policy.cutoff == least


def test_more_quality_asks_for_a_higher_cutoff():
    estimate, outcome = boastful(400, np.random.default_rng(2))
    cutoffs = [
        Threshold(quality=q).calibrate(estimate, outcome).cutoff for q in (0.45, 0.55, 0.65, 0.75)
    ]
    assert cutoffs == sorted(cutoffs)


def test_an_unknown_outcome_can_only_raise_the_cutoff():
    estimate, outcome = boastful(400, np.random.default_rng(3))
    known = Threshold(quality=0.6).calibrate(estimate, outcome).cutoff
    outcome[np.random.default_rng(4).random(outcome.shape) < 0.05] = np.nan
    assert Threshold(quality=0.6).calibrate(estimate, outcome).cutoff >= known


def test_a_promise_that_cannot_be_kept_is_refused():
    estimate, outcome = boastful(100, np.random.default_rng(5))
    with pytest.raises(PolicyError, match="cannot be promised: on these 100 queries the best"):
        Threshold(quality=0.99).calibrate(estimate, outcome)


def test_calibration_needs_queries_and_matching_shapes():
    estimate, outcome = boastful(10, np.random.default_rng(6))
    with pytest.raises(PolicyError, match="expected \\[Q, M\\]"):
        Threshold().calibrate(estimate, outcome[:, :2])
    with pytest.raises(PolicyError, match="at least one"):
        Threshold().calibrate(example_estimate(0), np.empty((0, 4)))


def test_reasons_tell_a_calibrated_cutoff_from_the_estimates_word():
    estimate, outcome = boastful(300, np.random.default_rng(7))
    assert "not calibrated" in Threshold(quality=0.6).choose(estimate).reasons[0][1]
    policy = Threshold(quality=0.6).calibrate(estimate, outcome)
    assert "held-out answers" in policy.choose(estimate).reasons[0][1]
