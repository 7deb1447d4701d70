"""Figures of a strong and a weak model, and how much of what could be gained is gained."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.query.base import RouterError
from wye.query.metrics.curve import aiq
from wye.query.metrics.lift import ibc_lift, oracle_gap_closed
from wye.query.metrics.resample import Resample
from wye.query.metrics.two_models import apgr, share_threshold, two_model_curve


def outcomes(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    weak, strong = generator.random(n), generator.random(n)
    strong += max(0.0, 0.1 + weak.mean() - strong.mean())
    return weak, strong


@given(st.integers(0, 10_000))
def test_apgr_of_the_oracle_is_the_highest(seed: int) -> None:
    weak, strong = outcomes(seed)
    score = np.random.default_rng(seed + 1).integers(0, 9, weak.size).astype(float)
    assert apgr(strong - weak, weak, strong) >= apgr(score, weak, strong) - 1e-12


@given(st.integers(0, 10_000))
def test_random_ties_broken_many_times_give_half(seed: int) -> None:
    weak, strong = outcomes(seed)
    assert apgr(np.zeros(weak.size), weak, strong) == pytest.approx(0.5)
    generator = np.random.default_rng(seed)
    # A score and its reverse lie about one half from either side.
    score = generator.random(weak.size)
    assert apgr(score, weak, strong) + apgr(-score, weak, strong) == pytest.approx(1.0)


def test_cpt_rises_with_the_level_and_is_the_level_for_a_constant() -> None:
    weak, strong = outcomes(1)
    curve = two_model_curve(np.zeros(60), weak, strong, Resample(60, 0))
    assert (curve.cpt20[0], curve.cpt50[0], curve.cpt80[0]) == pytest.approx((0.2, 0.5, 0.8))
    best = two_model_curve(strong - weak, weak, strong, Resample(60, 0))
    assert best.cpt20[0] < best.cpt50[0] < best.cpt80[0] < 0.8


@given(st.integers(0, 10_000), st.integers(0, 40))
def test_a_threshold_routes_its_share_up_to_ties(seed: int, strong: int) -> None:
    generator = np.random.default_rng(seed)
    score = generator.random(40)
    assert (score >= share_threshold(score, strong / 40)).sum() == strong
    tied = generator.integers(0, 4, 40).astype(float)
    threshold = share_threshold(tied, strong / 40)
    assert (tied > threshold).sum() <= strong <= (tied >= threshold).sum()


def test_a_threshold_needs_scores_and_a_share() -> None:
    for score, share in ((np.zeros(0), 0.5), (np.array([np.nan]), 0.5), (np.ones(3), 1.5)):
        with pytest.raises(RouterError):
            share_threshold(score, share)


def test_ibc_lift_is_zero_on_the_line_between_the_models_and_counts_what_is_above() -> None:
    small, large = (0.5, 1.0), (0.9, 5.0)
    for share in (0.25, 0.5, 1.0):
        assert ibc_lift(0.5 + 0.4 * share, 1.0 + 4.0 * share, small, large) == pytest.approx(0.0)
    assert ibc_lift(0.8, 3.0, small, large) == pytest.approx((0.15 - 0.1) / 0.1)
    assert ibc_lift(0.5, 3.0, small, large) == pytest.approx(-1.0)
    assert math.isnan(ibc_lift(0.8, 1.0, small, large))
    assert math.isnan(ibc_lift(0.8, 3.0, small, (0.4, 5.0)))


def test_the_share_of_the_oracle_gap_runs_from_the_best_single_model_to_the_oracle() -> None:
    assert oracle_gap_closed(0.7, 0.7, 0.9) == 0.0
    assert oracle_gap_closed(0.9, 0.7, 0.9) == 1.0
    assert oracle_gap_closed(0.6, 0.7, 0.9) < 0
    assert math.isnan(oracle_gap_closed(0.7, 0.7, 0.7))


def test_aiq_is_the_mean_height_under_the_hull() -> None:
    cost, quality = np.array([[1.0, 2.0, 3.0]]), np.array([[0.2, 0.8, 0.9]])
    found = aiq(cost, quality, np.array([1.0]), np.array([3.0]))
    assert found[0] == pytest.approx((0.5 + 0.85) / 2)
