"""Selections with a fixed number of pairs: top_k, expert_choice, sample, uniform, hashed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wye.core import (
    Plan,
    SelectionError,
    balanced_table,
    expert_choice,
    hashed,
    log_probability,
    sample,
    top_k,
    uniform,
)
from wye.core.arrays import to_numpy

any_array = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Few values, so that ties are common.
coarse = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0])
matrices = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=coarse
)


def naive_top_k(scores: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda t: (-row[t], t))[:k] for row in scores.tolist()]


def rows_of(plan: Plan, k: int) -> list[list[int]]:
    return to_numpy(plan.target).reshape(-1, k).tolist()


@any_array
@given(scores=matrices, data=st.data())
def test_top_k_equals_sorting_by_score_then_index(
    scores: np.ndarray, data: st.DataObject, to_array: Any
) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    plan = top_k(to_array(scores), k).validate(distinct=True)
    expected = naive_top_k(scores, k)
    assert rows_of(plan, k) == expected
    assert to_numpy(plan.source).reshape(-1, k).tolist() == [
        [s] * k for s in range(scores.shape[0])
    ]
    np.testing.assert_array_equal(
        to_numpy(plan.weight).reshape(-1, k), np.take_along_axis(scores, np.array(expected), 1)
    )


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9, 30, 99])
def test_ties_go_to_the_lower_index_in_wide_rows(k: int, to_array: Any) -> None:
    scores = np.round(np.random.default_rng(k).normal(size=(100, 100)), 1)
    for part in (scores, scores[:20]):
        assert rows_of(top_k(to_array(part), k), k) == naive_top_k(part, k)


@any_array
@given(scores=matrices, data=st.data())
def test_softmax_weights_equal_renormalised_softmax_of_all_scores(
    scores: np.ndarray, data: st.DataObject, to_array: Any
) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    plan = top_k(to_array(scores), k, weight="softmax")
    gates = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(gates, np.array(naive_top_k(scores, k)), 1)
    np.testing.assert_allclose(
        to_numpy(plan.weight).reshape(-1, k),
        chosen / chosen.sum(axis=1, keepdims=True),
        rtol=1e-6,
    )


def test_all_targets_selected_is_the_dense_matrix(to_array: Any) -> None:
    scores = np.random.default_rng(0).normal(size=(6, 5))
    np.testing.assert_allclose(to_numpy(top_k(to_array(scores), 5).dense()), scores)


def test_a_bias_moves_the_choice_and_not_the_weight(to_array: Any) -> None:
    scores = np.array([[0.9, 0.8, 0.1]])
    plan = top_k(to_array(scores), 1, bias=to_array(np.array([-0.5, 0.0, 0.0])))
    assert to_numpy(plan.target).tolist() == [1]
    assert to_numpy(plan.weight).tolist() == [0.8]


def test_a_forbidden_target_is_never_chosen(to_array: Any) -> None:
    scores = np.random.default_rng(1).normal(size=(30, 6))
    allowed = np.random.default_rng(2).random((30, 6)) < 0.6
    allowed[:, 0] = allowed[:, 5] = True
    for k in (1, 2):
        plan = top_k(to_array(scores), k, allowed=to_array(allowed))
        expected = naive_top_k(np.where(allowed, scores, -np.inf), k)
        assert rows_of(plan, k) == expected


@pytest.mark.parametrize("k", [2, 3, 6])
def test_short_sources_are_refused_padded_or_dropped(k: int, to_array: Any) -> None:
    scores = np.arange(12.0).reshape(2, 6)
    allowed = np.array([[True] * 6, [False, True, False, False, False, False]])
    arguments: dict[str, Any] = {"allowed": to_array(allowed)}
    with pytest.raises(SelectionError, match=f"source 1 has 1 allowed targets but k={k}"):
        top_k(to_array(scores), k, **arguments)
    padded = top_k(to_array(scores), k, short="zero", **arguments).validate(distinct=True)
    assert len(padded) == 2 * k
    weight = to_numpy(padded.weight).reshape(2, k)
    assert weight[1].tolist() == [7.0] + [0.0] * (k - 1)
    dropped = top_k(to_array(scores), k, short="drop", **arguments)
    assert to_numpy(dropped.source).tolist() == [0] * k + [1]
    assert to_numpy(dropped.target).tolist()[-1] == 1


@pytest.mark.parametrize("n_sources", [5, 90])
@pytest.mark.parametrize("width", [3, 80])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("short", ["error", "zero", "drop"])
def test_nan_is_an_error_that_names_the_row(
    n_sources: int, width: int, k: int, short: Any, to_array: Any
) -> None:
    scores = np.random.default_rng(0).normal(size=(n_sources, width))
    scores[3, 1] = np.nan
    with pytest.raises(SelectionError, match="NaN, first in row 3"):
        top_k(to_array(scores), k, short=short)


def test_no_sources_give_an_empty_plan(to_array: Any) -> None:
    scores = to_array(np.zeros((0, 4)))
    for plan in (
        top_k(scores, 2, weight="softmax"),
        top_k(scores, 1),
        expert_choice(scores, 3),
        sample(scores, 2, generator=0),
        uniform(scores, 1, generator=0),
        hashed(to_array(np.zeros(0, dtype=np.int64)), 4),
    ):
        assert (len(plan.validate()), plan.n_sources, plan.n_targets) == (0, 0, 4)


@pytest.mark.parametrize("k", [0, -1, 4, 1.0, True])
def test_k_out_of_range_is_refused(k: Any) -> None:
    with pytest.raises(SelectionError, match="from 1 to 3"):
        top_k(np.zeros((2, 3)), k)


def test_wrong_shapes_are_refused_with_the_expected_ones() -> None:
    with pytest.raises(SelectionError, match=r"\[S, T\]"):
        top_k(np.zeros(3), 1)
    with pytest.raises(SelectionError, match=r"expected \(2, 3\) or \(3,\)"):
        top_k(np.zeros((2, 3)), 1, allowed=np.ones(2, dtype=bool))
    with pytest.raises(SelectionError, match="booleans"):
        top_k(np.zeros((2, 3)), 1, allowed=np.ones(3))
    with pytest.raises(SelectionError, match="one of"):
        top_k(np.zeros((2, 3)), 1, weight="shares")  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="one array library"):
        top_k([[0.1, 0.2]], 1)


@any_array
@given(scores=matrices, data=st.data())
def test_permuting_sources_permutes_the_plan(
    scores: np.ndarray, data: st.DataObject, to_array: Any
) -> None:
    order = np.array(data.draw(st.permutations(range(scores.shape[0]))))
    straight = to_numpy(top_k(to_array(scores), 1).target)
    turned = to_numpy(top_k(to_array(scores[order]), 1).target)
    assert turned.tolist() == straight[order].tolist()


@any_array
@given(scores=matrices, data=st.data())
def test_expert_choice_fills_every_target_with_its_best_sources(
    scores: np.ndarray, data: st.DataObject, to_array: Any
) -> None:
    capacity = data.draw(st.integers(1, scores.shape[0]))
    plan = expert_choice(to_array(scores), capacity).validate(distinct=True)
    assert to_numpy(plan.load()).tolist() == [capacity] * scores.shape[1]
    assert to_numpy(plan.source).reshape(-1, capacity).tolist() == naive_top_k(scores.T, capacity)


def test_expert_choice_refuses_more_places_than_sources() -> None:
    with pytest.raises(SelectionError, match="capacity=4 with 3 sources"):
        expert_choice(np.zeros((3, 2)), 4)


def test_sampling_frequencies_follow_the_softmax(to_array: Any) -> None:
    p = np.array([0.1, 0.2, 0.7])
    n = 20_000
    scores = to_array(np.broadcast_to(np.log(p), (n, 3)).copy())
    share = to_numpy(sample(scores, 1, generator=3).load()) / n
    np.testing.assert_allclose(share, p, atol=5 * np.sqrt(0.25 / n))


def test_ordered_draws_occur_with_their_log_probability(to_array: Any) -> None:
    p = np.array([0.15, 0.25, 0.6])
    n = 20_000
    scores = to_array(np.broadcast_to(np.log(p), (n, 3)).copy())
    drawn = to_numpy(sample(scores, 2, generator=np.random.default_rng(5)).target).reshape(n, 2)
    for first in range(3):
        for second in set(range(3)) - {first}:
            exact = p[first] * p[second] / (1 - p[first])
            logged = log_probability(scores[:1, :], to_array(np.array([[first, second]])))
            assert float(np.exp(to_numpy(logged)[0])) == pytest.approx(exact, rel=1e-9)
            seen = np.mean((drawn == [first, second]).all(axis=1))
            assert seen == pytest.approx(exact, abs=5 * np.sqrt(0.25 / n))


def test_a_seed_repeats_the_draw_and_another_changes_it(to_array: Any) -> None:
    scores = to_array(np.zeros((200, 8)))
    for draw in (sample, uniform):
        first, second, other = (
            to_numpy(draw(scores, 3, generator=g).target).tolist() for g in (1, 1, 2)
        )
        assert first == second
        assert first != other


def test_randomness_without_a_source_is_refused() -> None:
    with pytest.raises(SelectionError, match="generator is None"):
        sample(np.zeros((1, 2)), generator=None)
    with pytest.raises(SelectionError, match="expected an int seed"):
        uniform(np.zeros((1, 2)), generator="seed")
    with pytest.raises(SelectionError, match="temperature"):
        sample(np.zeros((1, 2)), generator=0, temperature=0.0)


def test_uniform_ignores_scores_but_not_what_is_forbidden(to_array: Any) -> None:
    scores = np.zeros((6000, 4))
    scores[:, 0], scores[:, 3] = 1e30, -np.inf
    plan = uniform(to_array(scores), 1, generator=0)
    load = to_numpy(plan.load())
    assert load[3] == 0
    np.testing.assert_allclose(load[:3] / 6000, 1 / 3, atol=5 * np.sqrt(0.25 / 6000))


def test_sampling_never_draws_what_is_forbidden(to_array: Any) -> None:
    allowed = np.array([True, False, True])
    plan = sample(to_array(np.zeros((300, 3))), 2, generator=0, allowed=to_array(allowed))
    assert to_numpy(plan.load()).tolist() == [300, 0, 300]


def test_the_same_id_goes_to_the_same_targets_under_every_library(to_array: Any) -> None:
    ids = np.array([5, -9, 5, 2**62, 0], dtype=np.int64)
    mine = to_numpy(hashed(to_array(ids), 7, 2, seed=11).validate(distinct=True).target)
    reference = hashed(ids, 7, 2, seed=11).target
    assert mine.tolist() == reference.tolist()
    assert mine[:2].tolist() == mine[4:6].tolist()
    assert mine.tolist() != to_numpy(hashed(to_array(ids), 7, 2, seed=12).target).tolist()


def test_hashing_spreads_ids_evenly() -> None:
    load = hashed(np.arange(40_000), 8).load() / 40_000
    np.testing.assert_allclose(load, 1 / 8, atol=5 * np.sqrt(1 / 8 * 7 / 8 / 40_000))


def test_forbidding_a_target_moves_only_its_own_ids() -> None:
    ids = np.arange(2000)
    before = hashed(ids, 6).target
    after = hashed(ids, 6, allowed=np.array([True, True, False, True, True, True])).target
    moved = before != after
    assert (before[moved] == 2).all()
    assert (moved == (before == 2)).all()


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=30), n=st.integers(1, 6))
def test_a_balanced_table_differs_by_at_most_its_largest_id(counts: list[int], n: int) -> None:
    table = balanced_table(np.array(counts), n)
    load = np.bincount(table, weights=counts, minlength=n)
    assert load.max() - load.min() <= max(counts)
