"""The monitor is its bets written out, keeps its promise, and finds what drifts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wye.query import ConstantRouter, RouterError
from wye.query.calibration_monitor import STAKES, CalibrationMonitor, watch
from wye.testing import made_outcomes


def naive(p: np.ndarray, y: np.ndarray, limit: float, tolerance: float) -> list[int]:
    """One pair after the other."""
    stakes = [s / (1 + tolerance) for s in STAKES]
    bets = [(sign, stake) for sign in (1, -1) for stake in stakes]
    wealth = [0.0] * len(bets)
    found = []
    for t, (predicted, observed) in enumerate(zip(p, y, strict=True), start=1):
        gap = observed - predicted
        wealth = [
            max(w, 1.0) * (1 + stake * (sign * gap - tolerance))
            for w, (sign, stake) in zip(wealth, bets, strict=True)
        ]
        if sum(wealth) / len(wealth) > limit:
            found.append(t)
            wealth = [0.0] * len(bets)
    return found


def drifting(rng: np.random.Generator, n: int, start: int, by: float) -> tuple[np.ndarray, ...]:
    p = rng.random(n)
    chance = np.clip(p + by * (np.arange(n) >= start), 0, 1)
    return p, (rng.random(n) < chance).astype(float)


@pytest.mark.parametrize("seed", range(6))
def test_alarms_are_those_of_the_bets_however_the_pairs_are_batched(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, y = drifting(rng, 400, 150, -0.25)
    monitor = CalibrationMonitor(false_alarm_every=100, tolerance=0.01)
    at = 0
    while at < 400:
        step = int(rng.integers(1, 60))
        monitor.update(p[at : at + step], y[at : at + step])
        at += step
    assert [a.at for a in monitor.alarms] == naive(p, y, 100, 0.01)
    assert monitor.seen == 400


def test_false_alarms_are_as_rare_as_promised() -> None:
    """60 streams of 3000: at one in 300 or more, no more than 600 are to be expected."""
    rng = np.random.default_rng(1)
    count = 0
    for _ in range(60):
        p, y = drifting(rng, 3000, 3000, 0.0)
        count += len(CalibrationMonitor(false_alarm_every=300, tolerance=0.0).update(p, y))
    assert count <= 600


@pytest.mark.parametrize("by", [-0.2, 0.2])
def test_a_drift_is_found_with_its_beginning_and_its_size(by: float) -> None:
    p, y = drifting(np.random.default_rng(2), 2500, 1000, by)
    alarm = CalibrationMonitor().update(p, y)[0]
    assert 1000 < alarm.at < 1500
    assert abs(alarm.since - 1000) < 150
    assert alarm.gap == pytest.approx(float((y - p)[alarm.since : alarm.at].mean()))
    assert np.sign(alarm.gap) == np.sign(by)
    assert ("too much" in str(alarm)) == (by < 0)


def test_a_difference_within_the_tolerance_never_wins_on_average() -> None:
    """Each bet's mean growth is at most one, for any gap within the tolerance."""
    for gap in np.linspace(-0.05, 0.05, 11):
        for stake in STAKES:
            b = stake / 1.05
            assert max(1 + b * (s * gap - 0.05) for s in (1, -1)) <= 1.0 + 1e-12


def test_unknown_outcomes_are_passed_over_and_bad_ones_refused() -> None:
    monitor = CalibrationMonitor()
    assert monitor.update([0.5, 0.5], [np.nan, 1.0]) == []
    assert monitor.seen == 1
    assert monitor.update(0.5, 0.0) == []
    for p, y in (([0.5], [1.0, 0.0]), ([1.5], [1.0]), ([0.5], [-0.1])):
        with pytest.raises(RouterError):
            monitor.update(p, y)
    for bad in ({"false_alarm_every": 1.0}, {"tolerance": 1.0}):
        with pytest.raises(RouterError):
            CalibrationMonitor(**bad)


def test_a_router_is_watched_on_the_models_it_chooses() -> None:
    data = made_outcomes(400)
    router = ConstantRouter().fit(data)
    best = int(np.argmax(data.quality.mean(axis=0)))
    assert watch(router, data).alarms == []
    outcomes = data.outcomes.assign(quality=0.0)
    broken = type(data)(data.queries, outcomes, data.models)
    monitor = watch(router, broken)
    assert monitor.alarms[0].gap == pytest.approx(-data.quality[:, best].mean(), abs=1e-6)
    assert "calibration was lost" in monitor.words
    json.dumps(monitor.to_dict(), allow_nan=False)
