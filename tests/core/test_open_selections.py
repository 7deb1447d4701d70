"""Selections whose number of pairs depends on the data: top_p, threshold; and capacity."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wye.core import Plan, SelectionError, capped, places, threshold, top_k, top_p
from wye.core.arrays import to_numpy

any_array = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
shares = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
matrices = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7), elements=shares
)


def chosen(plan: Plan) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(plan.n_sources)]
    for s, t in zip(to_numpy(plan.source).tolist(), to_numpy(plan.target).tolist(), strict=True):
        rows[s].append(t)
    return rows


def naive_top_p(row: list[float], p: float, min_k: int, max_k: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda t: (-row[t], t))
    taken, held = [], 0.0
    for rank, t in enumerate(order[:max_k]):
        if rank < min_k or (held < p * sum(row) and row[t] > 0):
            taken.append(t)
        held += row[t]
    return taken


@any_array
@given(scores=matrices, p=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]), data=st.data())
def test_top_p_takes_the_fewest_targets_that_hold_the_share(
    scores: np.ndarray, p: float, data: st.DataObject, to_array: Any
) -> None:
    scores[:, 0] += 0.125
    max_k = data.draw(st.integers(1, scores.shape[1]))
    min_k = data.draw(st.integers(1, max_k))
    plan = top_p(to_array(scores), p, min_k=min_k, max_k=max_k).validate(distinct=True)
    assert chosen(plan) == [naive_top_p(row, p, min_k, max_k) for row in scores.tolist()]
    static = top_p(to_array(scores), p, min_k=min_k, max_k=max_k, static=True)
    assert len(static) == scores.shape[0] * max_k
    np.testing.assert_array_equal(to_numpy(static.dense()), to_numpy(plan.dense()))


def test_the_whole_share_takes_every_target_above_zero(to_array: Any) -> None:
    scores = np.random.default_rng(0).dirichlet(np.full(9, 0.3), size=200)
    scores[:, 4] = 0.0
    plan = top_p(to_array(scores), 1.0)
    assert chosen(plan) == [
        sorted(np.nonzero(row)[0].tolist(), key=lambda t: (-row[t], t)) for row in scores
    ]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[0.5, -0.1]], "negative"),
        ([[0.5, float("nan")]], "NaN"),
        ([[0.5, float("inf")]], "inf"),
        ([[0.5, 0.5], [0.0, 0.0]], "source 1 has no score above 0"),
    ],
)
def test_top_p_refuses_what_has_no_share(scores: Any, said: str, to_array: Any) -> None:
    with pytest.raises(SelectionError, match=said):
        top_p(to_array(np.array(scores)), 0.9)


@pytest.mark.parametrize("p", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(SelectionError, match="0 < p <= 1"):
        top_p(np.ones((1, 2)), p)


@any_array
@given(scores=matrices, least=shares, fallback=st.booleans())
def test_threshold_takes_all_at_or_above_it(
    scores: np.ndarray, least: float, fallback: bool, to_array: Any
) -> None:
    expected = []
    for row in scores.tolist():
        taken = [t for t, x in enumerate(row) if x >= least]
        expected.append(taken or ([row.index(max(row))] if fallback else []))
    plan = threshold(to_array(scores), least, fallback=fallback).validate(distinct=True)
    assert chosen(plan) == expected


def test_a_threshold_per_target_and_a_mask(to_array: Any) -> None:
    scores = to_array(np.array([[0.2, 0.9, 0.9], [0.8, 0.4, 0.9]]))
    least = to_array(np.array([0.5, 0.5, 0.1]))
    allowed = to_array(np.array([True, True, False]))
    assert chosen(threshold(scores, least, allowed=allowed)) == [[1], [0]]


def test_threshold_refuses_nan_and_shapes(to_array: Any) -> None:
    with pytest.raises(SelectionError, match="NaN"):
        threshold(to_array(np.array([[0.1, np.nan]])), 0.5)
    with pytest.raises(SelectionError, match="does not broadcast"):
        threshold(to_array(np.zeros((1, 2))), to_array(np.zeros((3, 2))))
    with pytest.raises(SelectionError, match="fall back"):
        threshold(to_array(np.full((1, 2), -np.inf)), 0.5, fallback=True)


def test_no_sources_give_an_empty_plan(to_array: Any) -> None:
    none = to_array(np.zeros((0, 3)))
    for plan in (top_p(none, 0.5), threshold(none, 0.1, fallback=True)):
        assert (len(plan.validate()), plan.n_sources, plan.n_targets) == (0, 0, 3)


@any_array
@given(
    target=st.lists(st.integers(0, 3), max_size=15),
    capacity=st.integers(0, 4),
    seed=st.integers(0, 50),
    by_priority=st.booleans(),
)
def test_capped_keeps_the_first_or_best_pairs_of_every_target(
    target: list[int], capacity: int, seed: int, by_priority: bool, to_array: Any
) -> None:
    n = len(target)
    priority = np.random.default_rng(seed).integers(0, 3, n).astype(np.float64)
    plan = Plan(
        to_array(np.arange(n)),
        to_array(np.array(target, dtype=np.int64)),
        to_array(np.ones(n)),
        n,
        4,
    )
    kept = []
    for t in range(4):
        queue = [i for i in range(n) if target[i] == t]
        if by_priority:
            queue.sort(key=lambda i: (-priority[i], i))
        kept += queue[:capacity]
    ranked = to_array(priority) if by_priority else None
    assert to_numpy(capped(plan, capacity, priority=ranked).source).tolist() == sorted(kept)
    static = to_numpy(capped(plan, capacity, priority=ranked, static=True).weight)
    assert np.nonzero(static)[0].tolist() == sorted(kept)


def test_a_full_target_drops_the_lowest_scores(to_array: Any) -> None:
    plan = top_k(to_array(np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])))
    kept = capped(plan, 2, priority=plan.weight)
    assert to_numpy(kept.source).tolist() == [1, 2, 3]


def test_ample_capacity_drops_nothing_and_places_count_up(to_array: Any) -> None:
    plan = top_k(to_array(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])))
    assert to_numpy(places(plan)).tolist() == [0, 1, 0]
    assert len(capped(plan, 3)) == 3
    limits = to_array(np.array([1, 0]))
    assert to_numpy(capped(plan, limits).source).tolist() == [0]


def test_capacity_that_cannot_be_is_refused(to_array: Any) -> None:
    plan = top_k(to_array(np.array([[0.6, 0.4]])))
    with pytest.raises(SelectionError, match="at least 0"):
        capped(plan, -1)
    with pytest.raises(SelectionError, match=r"expected \[T=2\]"):
        capped(plan, to_array(np.array([1, 1, 1])))
    with pytest.raises(SelectionError, match=r"expected \[N=1\]"):
        capped(plan, 1, priority=to_array(np.ones(2)))
