"""Scores smoothed over a graph equal the mixture by its definition and keep entropy in bounds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.core import SelectionError, entropy_bounds, row_stochastic, smoothed
from wye.core.arrays import to_numpy


def rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.dirichlet(np.full(shape[-1], 0.5), size=shape[:-1]))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_smoothing_equals_the_mixture_written_out(to_array: Any, share: float) -> None:
    rng = np.random.default_rng(0)
    scores, mixing = rows(rng, 3, 5, 4), rows(rng, 3, 5, 5)
    naive = np.zeros_like(scores)
    for b in range(3):
        for i in range(5):
            for t in range(4):
                neighbours = sum(mixing[b, i, j] * scores[b, j, t] for j in range(5))
                naive[b, i, t] = (1 - share) * scores[b, i, t] + share * neighbours
    mixed = to_numpy(smoothed(to_array(scores), to_array(mixing), share=share))
    np.testing.assert_allclose(mixed, naive, rtol=1e-12)
    np.testing.assert_allclose(mixed.sum(axis=-1), 1.0, rtol=1e-12)


def test_queries_are_scored_as_past_queries_were(to_array: Any) -> None:
    rng = np.random.default_rng(1)
    own, past, likeness = rng.normal(size=(2, 3)), rng.normal(size=(6, 3)), rows(rng, 2, 6)
    mixed = smoothed(to_array(own), to_array(likeness), share=0.25, neighbours=to_array(past))
    np.testing.assert_allclose(to_numpy(mixed), 0.75 * own + 0.25 * likeness @ past, rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 1.0])
def test_a_graph_of_loops_changes_no_bit(to_array: Any, share: float) -> None:
    scores = np.random.default_rng(2).random((7, 5))
    mixed = to_numpy(smoothed(to_array(scores), to_array(np.eye(7)), share=share))
    np.testing.assert_array_equal(mixed, scores)


def test_a_source_without_edges_keeps_its_scores(to_array: Any) -> None:
    scores = np.random.default_rng(3).random((3, 2))
    edges = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mixing = row_stochastic(to_array(edges))
    mixed = to_numpy(smoothed(to_array(scores), mixing, share=1.0))
    expected = np.stack([(scores[1] + scores[2]) / 2, scores[1], scores[0]])
    np.testing.assert_allclose(mixed, expected, rtol=1e-12)


def test_rows_are_shares_of_the_allowed_columns(to_array: Any) -> None:
    weights = np.array([[1.0, 2.0, 5.0], [3.0, 0.0, 1.0]])
    allowed = np.array([True, True, False])
    shares = to_numpy(row_stochastic(to_array(weights), allowed=to_array(allowed)))
    np.testing.assert_allclose(shares, [[1 / 3, 2 / 3, 0], [1, 0, 0]], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
def test_the_entropy_of_mixed_rows_lies_within_its_bounds(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    p, mixing = rows(rng, 6, 4), rows(rng, 6, 6)
    mixing = (1 - share) * np.eye(6) + share * mixing
    mixed = mixing @ p
    entropy = -(mixed * np.log(np.where(mixed > 0, mixed, 1))).sum(axis=1)
    low, high = entropy_bounds(p, mixing)
    assert np.all(low <= entropy + 1e-6)
    assert np.all(entropy <= high + 1e-6)


def test_the_bounds_meet_where_a_row_is_not_mixed(to_array: Any) -> None:
    p = rows(np.random.default_rng(4), 2, 5, 3)
    low, high = entropy_bounds(to_array(p), to_array(np.broadcast_to(np.eye(5), (2, 5, 5)).copy()))
    entropy = -(p * np.log(p)).sum(axis=-1)
    np.testing.assert_allclose(to_numpy(low), entropy, rtol=1e-10)
    np.testing.assert_allclose(to_numpy(high), entropy, rtol=1e-10)


def test_no_sources_give_no_scores(to_array: Any) -> None:
    empty = smoothed(to_array(np.zeros((0, 3))), to_array(np.zeros((0, 0))))
    assert tuple(empty.shape) == (0, 3)


def test_graphs_that_cannot_be_mixed_are_refused() -> None:
    scores = np.ones((3, 2))
    with pytest.raises(SelectionError, match=r"expected \[..., 3, 3\]"):
        smoothed(scores, np.ones((3, 4)))
    with pytest.raises(SelectionError, match="at least two dimensions"):
        smoothed(scores[0], np.ones((3, 3)))
    with pytest.raises(SelectionError, match=r"in \[0, 1\]"):
        smoothed(scores, np.ones((3, 3)), share=1.5)
    for bad in (-1.0, np.nan):
        with pytest.raises(SelectionError, match="negative or NaN"):
            row_stochastic(np.array([[bad, 1.0]]))
