"""Metrics of the report against naive oracles."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.query.metrics.baselines import baselines
from wye.query.metrics.calibration import brier, expected_calibration_error
from wye.query.metrics.comparison import ReportError, compare_on
from wye.query.metrics.curve import aiq, cost_at, hull, quality_at
from wye.query.metrics.resample import Resample
from wye.query.metrics.two_models import two_model_curve
from wye.testing.outcomes import routing_data

seeds = st.integers(0, 100_000)


def envelope(cost, quality, at):
    """Least concave, non-decreasing function above the points, by all pairs."""
    best = max((q for c, q in zip(cost, quality, strict=True) if c <= at), default=-np.inf)
    for c0, q0 in zip(cost, quality, strict=True):
        for c1, q1 in zip(cost, quality, strict=True):
            if c0 <= at < c1:
                best = max(best, q0 + (q1 - q0) * (at - c0) / (c1 - c0))
    return best


def points(seed, draws=4, n=9):
    rng = np.random.default_rng(seed)
    return np.round(rng.random((draws, n)), 2), np.round(rng.random((draws, n)), 2)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_hull_is_the_envelope_of_all_pairs(seed):
    cost, quality = points(seed)
    c, q = hull(cost, quality)
    for b in range(4):
        for at in np.linspace(cost[b].min(), 1.2, 23):
            assert np.interp(at, c[b], q[b]) == pytest.approx(
                envelope(cost[b], quality[b], at), abs=1e-9
            )


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_aiq_is_the_mean_height_of_the_envelope(seed):
    cost, quality = points(seed)
    low, high = cost.min(axis=1), cost.max(axis=1) + 0.1
    value = aiq(cost, quality, low, high)
    for b in range(4):
        grid = np.linspace(low[b], high[b], 4001)
        c, q = hull(cost[b : b + 1], quality[b : b + 1])
        area = np.trapezoid(np.interp(grid, c[0], q[0]), grid) / (high[b] - low[b])
        assert value[b] == pytest.approx(area, abs=2e-3)


def test_aiq_of_two_points_by_hand():
    """Up to the second point the hull rises from 0.4 to 0.8, then it stays: 0.6 and 0.8."""
    value = aiq(np.array([[1.0, 2.0]]), np.array([[0.4, 0.8]]), np.array([1.0]), np.array([3.0]))
    assert value[0] == pytest.approx(0.7)


@given(seeds, st.floats(0.0, 1.1))
@settings(max_examples=60, deadline=None)
def test_quality_at_a_budget_mixes_the_two_points_around_it(seed, budget):
    cost, quality = points(seed)
    value = quality_at(cost, quality, np.full(4, budget))
    for b in range(4):
        at = next((k for k in range(9) if cost[b, k] <= budget), None)
        if at is None:
            assert np.isnan(value[b])
            continue
        expected = quality[b, at]
        if at > 0:
            w = (budget - cost[b, at]) / (cost[b, at - 1] - cost[b, at])
            assert w * cost[b, at - 1] + (1 - w) * cost[b, at] == pytest.approx(budget)
            expected = w * quality[b, at - 1] + (1 - w) * quality[b, at]
        assert value[b] == pytest.approx(expected)


@given(seeds, st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_cost_at_a_quality_is_the_first_crossing_from_the_cheap_end(seed, target):
    rng = np.random.default_rng(seed)
    cost, quality = rng.random((1, 7)), rng.random((1, 7))
    value = cost_at(cost, quality, np.array([target]))[0]
    order = np.argsort(cost[0])
    c, q = cost[0][order], quality[0][order]
    # The corners too: a peak that just reaches the target lies between two points of any grid.
    grid = np.union1d(np.linspace(c[0], c[-1], 20_001), c)
    reached = grid[np.interp(grid, c, q) >= target]
    if reached.size == 0:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(reached[0], abs=1e-3)


def naive_apgr(score, weak, strong):
    """RouteLLM's curve over every threshold, ties broken at random: their mean is straight."""
    shares, quality = [0.0], [weak.mean()]
    for cut in sorted(set(score), reverse=True):
        up = score >= cut
        shares.append(up.mean())
        quality.append(np.where(up, strong, weak).mean())
    pgr = (np.array(quality) - weak.mean()) / (strong.mean() - weak.mean())
    area = np.trapezoid(pgr, shares)
    least = {}
    for level in (0.5, 0.8):
        k = next(k for k, p in enumerate(pgr) if p >= level - 1e-12)
        rise = pgr[k] - pgr[k - 1]
        least[level] = shares[k - 1] + (level - pgr[k - 1]) / rise * (shares[k] - shares[k - 1])
    return area, least[0.5], least[0.8]


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_apgr_and_cpt_are_those_of_the_naive_curve(seed):
    rng = np.random.default_rng(seed)
    weak = (rng.random(80) < 0.4).astype(float)
    strong = (rng.random(80) < 0.8).astype(float)
    score = np.round(strong - weak + rng.normal(0, 1, 80), 1)
    if strong.mean() <= weak.mean():
        return
    curve = two_model_curve(score, weak, strong, Resample(80, 5))
    expected = naive_apgr(score, weak, strong)
    assert (curve.apgr[0], curve.cpt50[0], curve.cpt80[0]) == pytest.approx(expected)


def test_apgr_on_a_draw_is_that_of_the_drawn_queries():
    rng = np.random.default_rng(0)
    weak, strong = rng.random(50), 0.5 + rng.random(50)
    score = rng.random(50)
    draws = Resample(50, 3, seed=1)
    curve = two_model_curve(score, weak, strong, draws)
    weights = np.concatenate(list(draws.weights()))
    for b in range(4):
        rows = np.repeat(np.arange(50), weights[b].astype(int))
        assert curve.apgr[b] == pytest.approx(naive_apgr(score[rows], weak[rows], strong[rows])[0])


def test_a_constant_score_has_the_apgr_of_a_coin_and_the_oracle_the_highest():
    rng = np.random.default_rng(2)
    weak, strong = rng.random(200), 0.3 + rng.random(200)
    draws = Resample(200, 0)
    assert two_model_curve(np.zeros(200), weak, strong, draws).apgr[0] == pytest.approx(0.5)
    oracle = two_model_curve(strong - weak, weak, strong, draws).apgr[0]
    for _ in range(20):
        assert oracle >= two_model_curve(rng.random(200), weak, strong, draws).apgr[0]


def test_no_lead_of_the_strong_model_leaves_no_apgr():
    curve = two_model_curve(np.arange(4.0), np.ones(4), np.ones(4), Resample(4, 0))
    assert np.isnan(curve.apgr[0])


def test_ece_and_brier_are_those_of_a_loop():
    rng = np.random.default_rng(3)
    predicted, quality = rng.random((60, 3)), (rng.random((60, 3)) < 0.6).astype(float)
    draws = Resample(60, 4, seed=5)
    error, score = (
        expected_calibration_error(predicted, quality, draws),
        brier(predicted, quality, draws),
    )
    weights = np.concatenate(list(draws.weights()))
    for b in range(5):
        rows = np.repeat(np.arange(60), weights[b].astype(int))
        p, y = predicted[rows].ravel(), quality[rows].ravel()
        total = 0.0
        for k in range(15):
            inside = (p >= k / 15) & ((p < (k + 1) / 15) | (k == 14))
            if inside.any():
                total += inside.mean() * abs(p[inside].mean() - y[inside].mean())
        assert error[b] == pytest.approx(total)
        assert score[b] == pytest.approx(((p - y) ** 2).mean())


def test_a_draw_has_as_many_queries_as_the_data_and_its_own_mean():
    draws = Resample(37, 50, seed=0)
    values = np.random.default_rng(1).random((37, 2))
    weights = np.concatenate(list(draws.weights()))
    assert (weights.sum(axis=1) == 37).all()
    assert (weights[0] == 1).all()
    np.testing.assert_allclose(draws.mean(values), weights @ values / 37)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    hits = 0
    for k in range(200):
        draws = Resample(80, 200, seed=k)
        figure = draws.figure(draws.mean(rng.normal(1.0, 1.0, 80)))
        hits += figure.low <= 1.0 <= figure.high
    # 95% of 200, within four standard errors and the percentile interval's shortfall at n = 80.
    assert 175 <= hits <= 199


def test_baselines_are_those_of_a_data_frame():
    rng = np.random.default_rng(6)
    quality = rng.choice([0.0, 0.5, 1.0], (90, 4))
    cost = rng.uniform(0.1, 1.0, (90, 4))
    datasets = rng.choice(["x", "y", "z"], 90)
    comparison = compare_on(routing_data(quality, cost, datasets=datasets))
    base = baselines(comparison, Resample(90, 10))
    frame = pd.DataFrame(quality)
    assert base.best == int(frame.mean().idxmax())
    by_dataset = frame.groupby(datasets).mean()
    assert base.per_dataset == {d: int(by_dataset.loc[d].idxmax()) for d in "xyz"}
    expected = np.mean([quality[i, base.per_dataset[d]] for i, d in enumerate(datasets)])
    assert base.per_dataset_quality[0] == pytest.approx(expected)
    assert base.oracle_quality[0] == pytest.approx(quality.max(axis=1).mean())
    cheapest_best = [
        min(cost[i, m] for m in range(4) if quality[i, m] == quality[i].max()) for i in range(90)
    ]
    assert base.oracle_cost is not None
    assert base.oracle_cost[0] == pytest.approx(np.mean(cheapest_best))


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_the_cheapest_mix_is_the_hull_of_the_single_models(seed):
    rng = np.random.default_rng(seed)
    quality, cost = rng.random((30, 5)), rng.uniform(0.1, 1.0, 5) * np.ones((30, 1))
    base = baselines(compare_on(routing_data(quality, cost)), Resample(30, 0))
    mean_cost, mean_quality = cost.mean(axis=0), quality.mean(axis=0)
    for budget in np.linspace(mean_cost.min(), mean_cost.max(), 7):
        value = base.mix_quality_at(np.array([budget]))[0]
        assert value == pytest.approx(envelope(mean_cost, mean_quality, budget))


def test_a_model_with_gaps_is_left_out_and_all_are_judged_on_the_same_queries():
    quality = np.ones((100, 3))
    quality[:30, 1] = np.nan
    quality[:5, 2] = np.nan
    comparison = compare_on(routing_data(quality))
    assert comparison.models == ("m0", "m2")
    assert comparison.excluded == {"m1": "answered 70% of the queries, 90% are needed"}
    assert comparison.rows.tolist() == list(range(5, 100))
    assert comparison.cost is None
    assert "same 95 of 100 queries" in comparison.notes[0]


def test_a_model_without_a_price_is_left_out_where_others_have_one():
    cost = np.array([0.1, np.nan, 0.3])
    comparison = compare_on(routing_data(np.ones((20, 3)), cost))
    assert comparison.models == ("m0", "m2")
    assert comparison.excluded == {"m1": "its cost is not known"}


def test_data_that_allow_no_comparison_are_refused():
    with pytest.raises(ReportError, match="no model of made answered more than 90%"):
        compare_on(routing_data(np.where(np.eye(6, 2) > 0, 1.0, np.nan)))
