"""How well scores rank the arms of a query: NDCG@k, hit@k and the mean reciprocal rank.

Source: the report of FusionFactory, arXiv 2507.10540; NDCG by Jarvelin and Kekalainen, ACM TOIS 20,
2002, with the reward itself as gain.

Shape letters: Q queries, M arms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError


def ndcg_at(scores: FloatArray, gains: FloatArray, k: int) -> float:
    """Mean over queries of sum_{r<=k} gain_r / log2(r + 1) over its greatest possible value.

    A query whose gains are all 0 counts as 1: no ranking of it is wrong.

    Args:
        scores: `[Q, M]`, more is better; of equals the first arm ranks first.
        gains: `[Q, M]`, 0 or more.
        k: how many ranks count, 1 or more.

    Raises:
        RouterError: shapes differ, k is below 1, or a gain is negative or unknown.

    Example:
        >>> ndcg_at(np.array([[0.9, 0.1]]), np.array([[0.0, 1.0]]), 1)
        0.0
    """
    _check(scores, gains, k)
    if not (gains >= 0).all():
        raise RouterError("gains must be 0 or more, without NaN")
    discount = 1.0 / np.log2(np.arange(2, min(k, gains.shape[1]) + 2))
    found = np.take_along_axis(gains, _order(scores), axis=1)[:, : discount.size] @ discount
    best = -np.sort(-gains, axis=1)[:, : discount.size] @ discount
    return float(np.where(best > 0, found / np.where(best > 0, best, 1.0), 1.0).mean())


def hit_at(scores: FloatArray, gains: FloatArray, k: int) -> float:
    """Share of queries with an arm of the highest gain among the first k.

    Args:
        scores, gains, k: as for `ndcg_at`; gains may be of any sign.
    """
    _check(scores, gains, k)
    return float((_rank_of_best(scores, gains) <= k).mean())


def mean_reciprocal_rank(scores: FloatArray, gains: FloatArray) -> float:
    """Mean over queries of 1 / rank of the first arm with the highest gain.

    Args:
        scores, gains: as for `hit_at`.
    """
    _check(scores, gains, 1)
    return float((1.0 / _rank_of_best(scores, gains)).mean())


def _rank_of_best(scores: FloatArray, gains: FloatArray) -> NDArray[np.intp]:
    ranked = np.take_along_axis(gains, _order(scores), axis=1)
    return np.asarray((ranked >= gains.max(axis=1, keepdims=True)).argmax(axis=1) + 1, np.intp)


def _order(scores: FloatArray) -> NDArray[np.intp]:
    return np.argsort(-scores, axis=1, kind="stable")


def _check(scores: FloatArray, gains: FloatArray, k: int) -> None:
    if scores.shape != gains.shape or scores.ndim != 2 or not scores.size:
        raise RouterError(
            f"scores {scores.shape} and gains {gains.shape} must be [Q, M] alike, and not empty"
        )
    if k < 1:
        raise RouterError(f"k is {k}, expected 1 or more")
    if not np.isfinite(scores).all() or not np.isfinite(gains).all():
        raise RouterError("scores and gains must be finite")
