"""Supermodels: what a set of models is worth when the best of their answers is returned.

The value of running a set S of models, R of them already run, is E[max_{m in S} q_m] minus the
weighted cost of S \\ R (Dekoninck, Baader and Vechev 2024, arXiv 2410.10347, cascade routing). The
expectation of a maximum of jointly normal variables is Clark's: exact for two, and for more by
matching the first two moments after each pair (Clark 1961, "The greatest of a finite set of random
variables", Operations Research 9).

Shape letters: Q queries, M models, B beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wye.query.base import BoolArray, FloatArray

_TINY = 1e-12


def expected_maximum(mean: FloatArray, covariance: FloatArray) -> float:
    """E[max] of jointly normal variables, exact for one and two of them.

    Args:
        mean: `[M]`, M >= 1.
        covariance: `[M, M]`.

    Example:
        >>> round(expected_maximum(np.zeros(2), np.eye(2)), 6)  # 1 / sqrt(pi)
        0.56419
    """
    current, variance = float(mean[0]), float(covariance[0, 0])
    with_max = covariance[0].copy()
    for k in range(1, mean.shape[0]):
        step = _clark(current, variance, mean[k], covariance[k, k], with_max[k])
        with_max = step.keep * with_max + (1.0 - step.keep) * covariance[k]
        current, variance = float(step.mean), float(step.variance)
    return current


@dataclass(frozen=True)
class SupermodelPlan:
    """The best set of models to have run, for each of Q queries.

    Attributes:
        members: `[Q, M]` the set S, R included.
        value: `[Q]` its value; -inf where no model is allowed.
        stop_value: `[Q]` the value of stopping with R; -inf where nothing has been run.
        first_value: `[Q, M]` value of running one more model and then stopping, -inf where not
            allowed or already run.
    """

    members: BoolArray
    value: FloatArray
    stop_value: FloatArray
    first_value: FloatArray


def plan_supermodels(
    mean: FloatArray,
    covariance: FloatArray,
    price: FloatArray,
    judging: float,
    ran: BoolArray,
    allowed: BoolArray,
    *,
    depth: int,
    beam: int,
) -> SupermodelPlan:
    """Search the best superset of the models already run, breadth first with a beam.

    A set is built best single first, so each set is met once; with a beam as wide as the number of
    sets the search is exhaustive. Judging is charged for every new member, except for a single
    model chosen before anything ran: its answer is returned unread.

    Args:
        mean: `[Q, M]` expected quality of each answer after judging, as known now.
        covariance: `[Q, M, M]` of what judging will say, zero rows for models already judged.
        price: `[Q, M]` weighted cost of each answer, in quality.
        judging: weighted cost of judging one answer, in quality.
        ran: `[Q, M]` the set R, the same number of models for each query.
        allowed: `[Q, M]` models that may be run.
        depth: the most models that may be run in all.
        beam: sets kept per size.
    """
    n_queries, n_models = mean.shape
    done = int(ran[0].sum()) if n_queries else 0
    open_ = allowed & ~ran
    current, variance, with_max = _best_of_ran(mean, ran, done)
    stop_value = current if done else np.full(n_queries, -np.inf)
    best_value = stop_value.copy()
    best_members = ran.copy()
    first_value = np.full(mean.shape, -np.inf)
    if depth <= done or not n_queries or not n_models:
        return SupermodelPlan(best_members, best_value, stop_value, first_value)

    # One state per query: the set R, its maximum so far and how that varies with every model.
    members = ran[:, None, :]
    top, spread = current[:, None], variance[:, None]
    linked = with_max[:, None, :]
    spent = np.zeros((n_queries, 1))
    rank_of = np.zeros((n_queries, n_models), dtype=np.intp)
    last = np.full((n_queries, 1), -1, dtype=np.intp)
    own = np.einsum("qmm->qm", covariance)
    for size in range(done + 1, depth + 1):
        if size == 1:
            gain = np.broadcast_to(mean[:, None, :], (n_queries, 1, n_models))
            step = None
            cost = price[:, None, :]
        else:
            step = _clark(
                top[:, :, None], spread[:, :, None], mean[:, None, :], own[:, None, :], linked
            )
            gain = step.mean
            cost = spent[:, :, None] + price[:, None, :] + judging
            if size == 2 and done == 0:
                cost = cost + judging
        fits = open_[:, None, :] & ~members
        if size > done + 1:
            fits &= rank_of[:, None, :] > last[:, :, None]
        value = np.where(fits, gain - cost, -np.inf)
        if size == done + 1:
            first_value = value[:, 0, :]
            rank_of = np.argsort(np.argsort(-first_value, axis=1, kind="stable"), axis=1)
        flat = value.reshape(n_queries, -1)
        width = min(beam, flat.shape[1])
        kept = np.argpartition(-flat, width - 1, axis=1)[:, :width]
        parent, added = np.divmod(kept, n_models)
        kept_value = np.take_along_axis(flat, kept, axis=1)
        rows = np.arange(n_queries)[:, None]
        grown = members[rows, parent].copy()
        grown[rows, np.arange(width)[None, :], added] = True

        winner = kept_value.argmax(axis=1)
        value_of_winner = kept_value[rows[:, 0], winner]
        better = value_of_winner > best_value
        best_value = np.where(better, value_of_winner, best_value)
        best_members = np.where(better[:, None], grown[rows[:, 0], winner], best_members)
        if not np.isfinite(kept_value).any():
            break
        if step is None:
            top, spread = mean[rows, added], own[rows, added]
            linked = covariance[rows, added]
            spent = price[rows, added]
        else:
            keep = step.keep[rows, parent, added][:, :, None]
            linked = keep * linked[rows, parent] + (1.0 - keep) * covariance[rows, added]
            top, spread = step.mean[rows, parent, added], step.variance[rows, parent, added]
            spent = cost[rows, parent, added]
        members, last = grown, np.take_along_axis(rank_of, added, axis=1)
        open_parent = np.isfinite(kept_value)
        members = members | ~open_parent[:, :, None]
    return SupermodelPlan(best_members, best_value, stop_value, first_value)


@dataclass(frozen=True)
class _Clark:
    mean: FloatArray
    variance: FloatArray
    keep: FloatArray


def _clark(
    mean: FloatArray | float,
    variance: FloatArray | float,
    other_mean: FloatArray,
    other_variance: FloatArray,
    covariance: FloatArray,
) -> _Clark:
    from scipy.special import ndtr

    m, v = np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    gap = m - other_mean
    theta = np.sqrt(np.maximum(v + other_variance - 2.0 * covariance, 0.0))
    certain = theta < _TINY
    alpha = gap / np.where(certain, 1.0, theta)
    keep = np.where(certain, (gap >= 0).astype(np.float64), ndtr(alpha))
    density = np.where(certain, 0.0, np.exp(-0.5 * alpha**2) / np.sqrt(2.0 * np.pi)) * theta
    first = m * keep + other_mean * (1.0 - keep) + density
    second = (
        (m**2 + v) * keep
        + (other_mean**2 + other_variance) * (1.0 - keep)
        + (m + other_mean) * density
    )
    return _Clark(first, np.maximum(second - first**2, 0.0), keep)


def _best_of_ran(
    mean: FloatArray, ran: BoolArray, done: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    # What has been judged is known, so its maximum has no spread and varies with nothing.
    n_queries = mean.shape[0]
    known = np.where(ran, mean, -np.inf).max(axis=1) if done else np.zeros(n_queries)
    zero: NDArray[np.float64] = np.zeros(n_queries)
    return known, zero, np.zeros_like(mean)
