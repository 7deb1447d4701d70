"""The gateway's checks tell a promise that is kept from one that is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from wye.checks import CheckContext, CheckError
from wye.checks.gateway import drift_alarms, intervals, peeking
from wye.data import load_embedded
from wye.gateway.learning import sequential
from wye.gateway.watch import answers, traffic
from wye.gateway.watch.detector import Detector

ONE_SEED = CheckContext(load_embedded(), (5,))


@pytest.mark.parametrize(("count", "runs"), [(0, 40), (1, 40), (13, 40), (40, 40)])
def test_intervals_of_shares_are_those_of_the_binomial_test(count, runs):
    oracle = stats.binomtest(count, runs).proportion_ci(0.95, "exact")
    assert intervals.of_share(count, runs) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_a_mean_at_a_bound_leaves_two_and_a_half_percent_beyond_the_count(count):
    low, high = intervals.of_count(count)
    assert stats.poisson.cdf(count, high) == pytest.approx(0.025)
    assert low == 0.0 or stats.poisson.sf(count - 1, low) == pytest.approx(0.025)


def test_bounds_for_every_look_keep_their_level_and_a_z_test_does_not():
    result = peeking.check(ONE_SEED)
    assert result.holds, [str(claim) for claim in result.claims]
    fooled = [v for name, v in result.figures.items() if "z test" in name]
    assert min(fooled) > 2 * peeking.ALPHA


def test_the_seed_decides_everything(monkeypatch):
    monkeypatch.setattr(peeking, "RUNS", 10)
    monkeypatch.setattr(drift_alarms, "STEADY_RUNS", 1)
    monkeypatch.setattr(drift_alarms, "FINDING_RUNS", 1)
    other = CheckContext(ONE_SEED.data, (6,))
    for check in (peeking.check, drift_alarms.check):
        assert check(ONE_SEED) == check(ONE_SEED)
        assert check(ONE_SEED).figures != check(other).figures


def test_bounds_that_hold_for_one_look_alone_are_found_out(monkeypatch):
    monkeypatch.setattr(peeking, "RUNS", 60)
    z = {alpha: stats.norm.isf(alpha / 2) for alpha in (peeking.ALPHA, peeking.ALPHA / 3)}

    def for_one_look(metric, candidate, control, *, alpha, least):
        found = sequential_difference(metric, candidate, control, alpha=alpha, least=least)
        if found.low is None:
            return found
        variance = candidate.variance / candidate.count + control.variance / control.count
        radius = z[alpha] * variance**0.5
        return replace(found, low=found.estimate - radius, high=found.estimate + radius)

    sequential_difference = sequential.difference
    monkeypatch.setattr(sequential, "difference", for_one_look)
    broken = [claim for claim in peeking.check(ONE_SEED).claims if not claim.holds]
    assert any("wrong verdicts" in claim.figure for claim in broken)


def test_alarms_are_as_rare_as_promised_and_find_what_changed():
    result = drift_alarms.check(ONE_SEED)
    assert result.figures["requests: false alarms / promised"] <= 1.0
    assert result.figures["answers: false alarms / promised"] <= 1.0
    late = [str(c) for c in result.claims if "found in time" in c.figure and not c.holds]
    assert late == []


def test_a_detector_that_alarms_more_often_than_it_says_is_found_out(monkeypatch):
    def eager(streams: int, false_alarm_every: float) -> Detector:
        return Detector(streams, 1.0 + np.log10(false_alarm_every))

    monkeypatch.setattr(traffic, "Detector", eager)
    monkeypatch.setattr(answers, "Detector", eager)
    broken = {claim.figure for claim in drift_alarms.check(ONE_SEED).claims if not claim.holds}
    assert "requests: false alarms / promised, at most (95%)" in broken
    assert "answers: false alarms / promised, at most (95%)" in broken


def test_too_few_datasets_for_a_shift_are_refused():
    data = load_embedded()
    few = data.where(np.isin(data.datasets, sorted(set(data.datasets))[:2]))
    with pytest.raises(CheckError, match="2 datasets; a shift to other requests needs 3"):
        drift_alarms.check(CheckContext(few, (0,)))
