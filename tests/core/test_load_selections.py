"""Selections that look at the load: sinkhorn, balanced, assignment, makespan."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from wye.core import (
    SelectionError,
    assignment,
    balanced,
    dual_bound,
    dual_prices,
    makespan,
    max_violation,
    retained_score,
    sinkhorn,
    solve_makespan,
    top_k,
    transport,
)
from wye.core.arrays import to_numpy


def softmax_scores(n: int, width: int, skew: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    powers = np.exp(rng.normal(size=(n, width)) + skew * rng.normal(size=width))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def best_with_quota(scores: np.ndarray, k: int, quota: int) -> float:
    """By enumeration of every choice of k targets per source."""
    subsets = list(itertools.combinations(range(scores.shape[1]), k))
    best = -np.inf
    for pick in itertools.product(subsets, repeat=scores.shape[0]):
        load = np.bincount(np.array(pick).ravel(), minlength=scores.shape[1])
        if load.max() <= quota:
            best = max(best, sum(scores[s, list(c)].sum() for s, c in enumerate(pick)))
    return float(best)


def test_transport_meets_its_marginals(to_array: Any) -> None:
    scores = softmax_scores(60, 5, 1.0, 0)
    mass = to_numpy(transport(to_array(scores), rounds=2000, tolerance=1e-9))
    np.testing.assert_allclose(mass.sum(axis=1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(mass.sum(axis=0), 12.0, rtol=1e-7)
    quota = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
    mass = to_numpy(transport(to_array(scores), quota=to_array(quota), rounds=2000, tolerance=1e-9))
    np.testing.assert_allclose(mass.sum(axis=0), quota * 6, rtol=1e-6, atol=1e-12)


def test_transport_ignores_what_is_added_to_rows_and_columns(to_array: Any) -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((20, 4))
    shifted = scores + rng.normal(size=(20, 1)) + rng.normal(size=4)
    arguments: dict[str, Any] = {"epsilon": 0.2, "rounds": 5000, "tolerance": 1e-12}
    np.testing.assert_allclose(
        to_numpy(transport(to_array(scores), **arguments)),
        to_numpy(transport(to_array(shifted), **arguments)),
        atol=1e-8,
    )


def test_transport_is_flat_when_hot_and_an_assignment_when_cold() -> None:
    scores = np.random.default_rng(2).random((8, 8))
    np.testing.assert_allclose(transport(scores, epsilon=1e4), 1 / 8, atol=1e-4)
    mass = transport(scores, epsilon=0.002, rounds=20_000, tolerance=1e-6)
    _, best = linear_sum_assignment(scores, maximize=True)
    assert mass.argmax(axis=1).tolist() == best.tolist()


def test_sinkhorn_balances_and_respects_the_mask(to_array: Any) -> None:
    scores = softmax_scores(400, 8, 1.0, 3)
    plain, fair = top_k(to_array(scores)), sinkhorn(to_array(scores), epsilon=0.01, rounds=500)
    assert max_violation(fair.load()) < 0.3 * max_violation(plain.load())
    allowed = np.ones((400, 8), dtype=bool)
    allowed[:, 2] = False
    masked = sinkhorn(to_array(scores), 2, allowed=to_array(allowed)).validate(distinct=True)
    assert to_numpy(masked.load())[2] == 0


def test_sinkhorn_refuses_nan_and_bad_parameters(to_array: Any) -> None:
    with pytest.raises(SelectionError, match="NaN"):
        sinkhorn(to_array(np.array([[0.1, np.nan]])))
    with pytest.raises(SelectionError, match="epsilon"):
        sinkhorn(to_array(np.ones((1, 2))), epsilon=0.0)
    with pytest.raises(SelectionError, match=r"expected \[T=2\]"):
        sinkhorn(to_array(np.ones((1, 2))), quota=to_array(np.ones(3)))


@pytest.mark.parametrize(("width", "k"), [(16, 4), (64, 8)])
@pytest.mark.parametrize("skew", [0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_prices_balance_a_skewed_batch(width: int, k: int, skew: float, seed: int) -> None:
    scores = softmax_scores(4096, width, skew, seed)
    plain = max_violation(top_k(scores, k).load())
    assert max_violation(balanced(scores, k, rounds=14).load()) < 0.12
    assert max_violation(balanced(scores, k, rounds=4).load()) < 0.2 * plain


@pytest.mark.parametrize("seed", range(6))
def test_weak_duality_brackets_the_integer_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, width, k = 6, 3, int(rng.integers(1, 3))
    scores = rng.random((n, width))
    quota = -(-k * n // width)
    best = best_with_quota(scores, k, quota)
    exact = assignment(scores, k)
    assert exact.load().max() <= quota
    assert float(exact.weight.sum()) == pytest.approx(best, abs=1e-9)
    bounds = [
        dual_bound(scores, dual_prices(scores, k, rounds=rounds), k) for rounds in (0, 1, 4, 16)
    ]
    assert all(b >= best - 1e-9 for b in bounds)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(bounds))


def test_a_balanced_batch_keeps_its_choices() -> None:
    scores = np.eye(6) + 0.1 * np.random.default_rng(0).random((6, 6))
    assert balanced(scores).target.tolist() == list(range(6))


def test_what_is_added_to_one_source_changes_no_choice(to_array: Any) -> None:
    rng = np.random.default_rng(5)
    scores = rng.random((64, 4))
    shifted = scores + rng.integers(-3, 4, size=(64, 1))
    first, second = balanced(to_array(scores), 2), balanced(to_array(shifted), 2)
    assert to_numpy(first.target).tolist() == to_numpy(second.target).tolist()


def test_balanced_weights_are_the_original_scores(to_array: Any) -> None:
    scores = softmax_scores(100, 8, 1.0, 6)
    plan = balanced(to_array(scores), 2).validate(distinct=True).host()
    np.testing.assert_array_equal(plan.weight, scores[plan.source, plan.target])
    assert 0.5 < retained_score(plan, scores) < 1.0


def test_warm_prices_start_where_the_last_batch_ended() -> None:
    scores = softmax_scores(2048, 16, 1.0, 7)
    settled = dual_prices(scores, 4, rounds=60)
    warm = balanced(scores, 4, rounds=1, start=settled)
    cold = balanced(scores, 4, rounds=1)
    assert max_violation(warm.load()) < 0.2 * max_violation(cold.load())


def test_unequal_quotas_are_followed(to_array: Any) -> None:
    scores = softmax_scores(1000, 4, 0.5, 8)
    quota = np.array([100, 200, 700, 0])
    load = to_numpy(balanced(to_array(scores), quota=to_array(quota), rounds=40).load())
    assert load[3] == 0
    np.testing.assert_allclose(load, quota, atol=25)
    exact = to_numpy(assignment(to_array(scores), quota=to_array(quota)).load())
    assert exact.tolist() == quota.tolist()


def test_an_impossible_quota_is_refused(to_array: Any) -> None:
    scores = to_array(np.ones((4, 2)))
    for select in (balanced, assignment):
        with pytest.raises(SelectionError, match="below the 4 pairs"):
            select(scores, quota=1)
        with pytest.raises(SelectionError, match="integers >= 0"):
            select(scores, quota=to_array(np.array([1, 2, 3])))
    blocked = np.array([[True, False], [True, False]])
    with pytest.raises(SelectionError, match="raise the quota"):
        assignment(to_array(np.ones((2, 2))), quota=1, allowed=to_array(blocked))
    with pytest.raises(SelectionError, match="NaN"):
        balanced(to_array(np.array([[np.nan, 1.0]])))


@pytest.mark.parametrize("k", [1, 2])
def test_assignment_equals_enumeration_with_a_mask(k: int, to_array: Any) -> None:
    rng = np.random.default_rng(k)
    scores = rng.random((5, 3))
    allowed = np.ones((5, 3), dtype=bool)
    allowed[0, 0] = allowed[3, 1] = False
    plan = assignment(to_array(scores), k, quota=4, allowed=to_array(allowed)).validate(
        distinct=True
    )
    expected = best_with_quota(np.where(allowed, scores, -1e6), k, 4)
    assert float(to_numpy(plan.weight).sum()) == pytest.approx(expected)
    assert to_numpy(plan.load()).max() <= 4


def naive_makespan(
    cost: np.ndarray, size: np.ndarray, capacity: np.ndarray
) -> tuple[float, tuple[int, ...] | None]:
    best: tuple[float, tuple[int, ...] | None] = (np.inf, None)
    n, width = cost.shape
    for pick in itertools.product(range(width), repeat=n):
        load, held = np.zeros(width), np.zeros(width)
        for s, t in enumerate(pick):
            load[t] += cost[s, t]
            held[t] += size[s]
        if (held <= capacity).all() and load.max() < best[0]:
            best = (float(load.max()), pick)
    return best


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_exact_makespan_equals_enumeration(data: st.DataObject) -> None:
    n, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(0, 9), min_size=n * width, max_size=n * width)
    cost = np.array(data.draw(cells), dtype=float).reshape(n, width)
    size = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=float)
    capacity = np.array(
        data.draw(st.lists(st.integers(0, 10), min_size=width, max_size=width)), dtype=float
    )
    best, pick = naive_makespan(cost, size, capacity)
    if pick is None:
        with pytest.raises(SelectionError, match="no plan within the capacity"):
            makespan(cost, size=size, capacity=capacity, exact=True)
        return
    found = solve_makespan(cost, size=size, capacity=capacity, exact=True)
    assert found.optimal
    assert found.makespan == pytest.approx(best)
    quick = solve_makespan(cost, size=size, capacity=capacity)
    held = np.bincount(quick.plan.target, weights=size, minlength=width)
    assert (held <= capacity).all()
    assert found.makespan - 1e-9 <= quick.makespan
    assert quick.bound <= best + 1e-9


@settings(max_examples=40, deadline=None)
@given(cost=st.lists(st.integers(1, 30), min_size=1, max_size=7), width=st.integers(1, 3))
def test_identical_targets_stay_within_grahams_ratio(cost: list[int], width: int) -> None:
    times = np.array(cost, dtype=float)
    full = np.repeat(times[:, None], width, axis=1)
    best, _ = naive_makespan(full, np.ones(len(cost)), np.full(width, np.inf))
    found = solve_makespan(times, width)
    assert best - 1e-9 <= found.makespan <= best * (4 / 3 - 1 / (3 * width)) + 1e-9
    load = np.bincount(found.plan.target, weights=found.plan.weight, minlength=width)
    assert load.max() == pytest.approx(found.makespan)


def test_a_plan_that_greed_misses_is_found_under_tight_capacity() -> None:
    size = np.array([4.0, 3.0, 3.0, 2.0, 2.0, 2.0])
    plan = makespan(np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0]), 2, size=size, capacity=8.0)
    assert np.bincount(plan.target, weights=size).tolist() == [8.0, 8.0]


def test_makespan_of_many_sources_is_near_its_bound(to_array: Any) -> None:
    cost = np.random.default_rng(0).lognormal(size=2000)
    found = solve_makespan(to_array(cost), 8)
    assert found.makespan <= found.bound * 1.001
    np.testing.assert_array_equal(to_numpy(found.plan.weight), cost)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cost": np.ones(3)}, "n_targets=None"),
        ({"cost": np.ones((2, 3)), "n_targets": 2}, r"expected \[S\] or \[S, T\]"),
        ({"cost": np.array([[1.0, np.nan]])}, "NaN"),
        ({"cost": np.array([[1.0, -1.0]])}, "negative"),
        ({"cost": np.ones((2, 2)), "size": np.ones(3)}, r"\[S=2\]"),
        ({"cost": np.ones((2, 2)), "capacity": np.ones(3)}, r"\[T=2\]"),
        ({"cost": np.ones((2, 2)), "allowed": np.array([False, False])}, "no allowed target"),
        ({"cost": np.ones((2, 2)), "capacity": 0.5}, "no plan within the capacity"),
    ],
)
def test_what_cannot_be_placed_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        makespan(**arguments)


def test_no_sources_have_no_makespan(to_array: Any) -> None:
    none = to_array(np.zeros((0, 3)))
    assert solve_makespan(none).makespan == 0.0
    for plan in (makespan(none), balanced(none), assignment(none), sinkhorn(none)):
        assert (len(plan.validate()), plan.n_sources, plan.n_targets) == (0, 0, 3)
