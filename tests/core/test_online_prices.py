"""Prices of a stream, and the exact balanced assignment."""

import itertools

import array_api_strict as strict
import numpy as np
import pytest

from wye.core import (
    SelectionError,
    assignment,
    dual_bound,
    dual_prices,
    effective_count,
    fold,
    histogram_prices,
    left_values,
    max_violation,
    top_k,
    window_prices,
)


def skewed(n: int = 2000, t: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, t)) + rng.normal(size=t)
    s = np.exp(z)
    return s / s.sum(axis=1, keepdims=True)


def naive_left(scores, price, k):
    rows = []
    for row in scores:
        paid = max(0.0, sorted(row - price, reverse=True)[k])
        rows.append(row - paid)
    return np.array(rows)


def test_values_left_behind_are_scores_less_what_the_source_pays():
    s, q = skewed(30), np.linspace(0, 0.2, 8)
    np.testing.assert_allclose(left_values(s, q, 2), naive_left(s, q, 2))


def test_a_window_price_is_the_order_statistic_after_the_quota():
    values = np.random.default_rng(0).normal(size=(40, 3))
    share = np.array([0.25, 0.5, 0.05])
    prices = window_prices(values, share)
    for t, rank in enumerate((10, 20, 2)):
        assert prices[t] == max(0.0, sorted(values[:, t], reverse=True)[rank])
    assert window_prices(values, 1.0).tolist() == [0.0, 0.0, 0.0]
    assert window_prices(values[:0], 0.5).tolist() == [0.0, 0.0, 0.0]


def test_a_histogram_finds_the_price_of_the_window_to_a_bin():
    s, q = skewed(), np.zeros(8)
    values = left_values(s, q, 2)
    counts = fold(np.zeros((8, 128)), values, window=10**9)
    total = effective_count(len(s), 10**9)
    assert total == pytest.approx(len(s), rel=1e-5)
    exact = window_prices(values, 2 / 8)
    assert np.abs(histogram_prices(counts, total, 2 / 8) - exact).max() <= 1 / 128


def test_a_histogram_forgets_what_is_older_than_its_window():
    counts = fold(np.zeros((1, 4)), np.array([[0.9]]), window=10)
    for _ in range(100):
        counts = fold(counts, np.array([[0.1]]), window=10)
    assert counts[0, 3] == pytest.approx(np.exp(-10))
    assert counts.sum() == pytest.approx(effective_count(101, 10))


def test_one_fold_of_many_equals_many_folds_of_one():
    values = np.random.default_rng(1).uniform(-0.5, 1.2, size=(20, 3))
    whole = fold(np.zeros((3, 8)), values, window=16)
    parts = np.zeros((3, 8))
    for row in values:
        parts = fold(parts, row[None], window=16)
    np.testing.assert_allclose(whole, parts)


@pytest.mark.parametrize("memory", ["window", "histogram"])
def test_a_stream_of_single_sources_comes_into_balance(memory):
    s = skewed(6000)
    price, counts, chosen = np.zeros(8), np.zeros((8, 128)), []
    kept = np.zeros((0, 8))
    for i, row in enumerate(s):
        chosen.append(top_k(row[None], 2, bias=-price).target)
        left = left_values(row[None], price, 2)
        if memory == "window":
            kept = np.concatenate([kept, left])[-512:]
            if i % 8 == 0:
                price = window_prices(kept, 2 / 8)
        else:
            counts = fold(counts, left, window=512)
            price = histogram_prices(counts, effective_count(i + 1, 512), 2 / 8)
    late = np.bincount(np.concatenate(chosen[3000:]), minlength=8)
    assert max_violation(late) < 0.3 * max_violation(top_k(s[3000:], 2).load())


def test_bad_streams_are_refused():
    s = skewed(4)
    with pytest.raises(SelectionError, match="NaN"):
        left_values(np.full((1, 8), np.nan), np.zeros(8), 2)
    with pytest.raises(SelectionError, match="counts"):
        fold(np.zeros((7, 4)), s, window=10)
    with pytest.raises(SelectionError, match="window"):
        fold(np.zeros((8, 4)), s, window=0)
    with pytest.raises(SelectionError, match="share"):
        window_prices(s, -0.1)


def test_no_plan_within_the_quota_scores_more_than_the_dual():
    s = skewed(96)
    best = assignment(s, 1)
    total = float(s[best.source, best.target].sum())
    bounds = [dual_bound(s, dual_prices(s, 1, rounds=r), 1) for r in (0, 1, 2, 4, 8, 16)]
    assert all(0 <= total <= bound + 1e-9 for bound in bounds)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(bounds))


def test_the_assignment_equals_the_hungarian_algorithm():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    for trial in range(30):
        n, t = int(rng.integers(1, 40)), int(rng.integers(1, 7))
        s = np.round(rng.normal(size=(n, t)), 1)  # with ties
        allowed = rng.random((n, t)) < 0.8
        allowed[:, trial % t] = True
        limit = np.full(t, -(-n // t)) + rng.integers(0, 3, t)
        limit[trial % t] = n
        place = np.repeat(np.arange(t), np.minimum(limit, n))
        open_scores = np.where(allowed, s, -np.inf)
        rows, columns = linear_sum_assignment(open_scores[:, place], maximize=True)
        plan = assignment(s, 1, quota=limit, allowed=allowed)
        assert (plan.load() <= limit).all()
        assert allowed[plan.source, plan.target].all()
        expected = open_scores[rows, place[columns]].sum()
        assert s[plan.source, plan.target].sum() == pytest.approx(expected)


def test_an_assignment_that_cannot_be_is_refused():
    s = np.zeros((4, 2))
    allowed = np.array([[True, False]] * 3 + [[True, True]])
    with pytest.raises(SelectionError, match="no plan"):
        assignment(s, 1, allowed=allowed)


def test_prices_are_the_same_in_every_array_library():
    s = skewed(50, 4)
    results = []
    for convert in (np.asarray, strict.asarray):
        price, share = convert(np.full(4, 0.1)), convert(np.array([0.1, 0.2, 0.3, 0.4]))
        left = left_values(convert(s), price, 2)
        counts = fold(convert(np.zeros((4, 16))), left, window=20)
        total = effective_count(50, 20)
        parts = (left, window_prices(left, share), counts, histogram_prices(counts, total, share))
        results.append([np.asarray(part) for part in parts])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
