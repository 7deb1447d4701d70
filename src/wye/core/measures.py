"""How a plan, or a change between two, looks: balance, agreement, drift.

Balance is measured per layer and never averaged over layers first, where collapse in different
layers cancels. Every function returns a Python float and carries no gradient.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError
from wye.core.plan import Plan

FloatArray = NDArray[np.float64]


def max_violation(load: Array) -> float:
    """MaxVio, largest load over mean load less 1: 0 is balance, T - 1 is all on one target.

    Loss-free balancing (arXiv 2408.15664, equation 4). 0 where nothing was routed.

    Args:
        load: `[T]`, as `plan.load()` gives it.

    Example:
        >>> import numpy as np
        >>> max_violation(np.array([3, 1]))
        0.5
    """
    counts = _load(load)
    mean = float(counts.mean())
    return float(counts.max()) / mean - 1.0 if mean > 0 else 0.0


def load_variation(load: Array) -> float:
    """Coefficient of variation of the load, standard deviation over mean; 0 is balance."""
    counts = _load(load)
    mean = float(counts.mean())
    return float(counts.std()) / mean if mean > 0 else 0.0


def load_entropy(load: Array) -> float:
    """Shannon entropy of the load over its largest value ln T: 1 is balance, 0 is one target.

    1 where T is 1 or nothing was routed.
    """
    counts = _load(load)
    total = float(counts.sum())
    if counts.shape[0] == 1 or total == 0:
        return 1.0
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum()) / math.log(counts.shape[0])


def starved_share(load: Array, *, below: float = 0.25) -> float:
    """Share of targets whose load lies under `below` times the mean load ("dead experts")."""
    counts = _load(load)
    return float(np.mean(counts < below * counts.mean())) if counts.sum() > 0 else 0.0


def retained_score(plan: Plan, scores: Array) -> float:
    """Total score of the plan's pairs over that of the best pairs of as many targets per source.

    1 where every source got its best targets; what balance or a budget costs otherwise.

    Args:
        plan: no source more than T pairs.
        scores: `[S, T]` >= 0, of the plan's sources and targets.

    Raises:
        SelectionError: shapes that do not match.
    """
    value = np.asarray(arrays.to_numpy(scores), dtype=np.float64)
    if value.shape != (plan.n_sources, plan.n_targets):
        raise SelectionError(
            f"scores have shape {value.shape}, expected {(plan.n_sources, plan.n_targets)}"
        )
    host = plan.host()
    best = np.cumsum(-np.sort(-value, axis=1), axis=1)
    taken = host.fan_out()
    rows = np.nonzero(taken > 0)[0]
    reachable = float(best[rows, taken[rows] - 1].sum())
    got = float(value[host.source, host.target].sum())
    return got / reachable if reachable != 0 else 1.0


def agreement(first: Plan, second: Plan) -> float:
    """Mean over sources of the Jaccard index of their target sets: 1 the same, 0 disjoint.

    Two empty sets agree. 1 where there are no sources.

    Raises:
        SelectionError: plans between different numbers of sources or targets.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> scores = np.array([[0.1, 0.2, 0.7]])
        >>> agreement(top_k(scores, 1), top_k(scores, 2))
        0.5
    """
    _same_size(first, second)
    if first.n_sources == 0:
        return 1.0
    a, b = _pairs(first), _pairs(second)
    both = np.intersect1d(a, b, assume_unique=True)
    n = first.n_sources
    width = max(first.n_targets, 1)
    common = np.bincount(both // width, minlength=n)
    either = np.bincount(a // width, minlength=n) + np.bincount(b // width, minlength=n) - common
    return float(np.mean(np.where(either > 0, common / np.maximum(either, 1), 1.0)))


def drift(before: Plan, after: Plan) -> float:
    """How far the load moved between targets: Jensen-Shannon divergence of the shares, in bits.

    0 where both plans load the targets alike, 1 where they use different ones (Lin 1991). The plans
    may be of different sources: two days of traffic, for instance.

    Raises:
        SelectionError: plans with different numbers of targets, or an empty one.
    """
    if before.n_targets != after.n_targets:
        raise SelectionError(
            f"plans have {before.n_targets} and {after.n_targets} targets, expected the same"
        )
    return divergence(_load(before.load()), _load(after.load()))


def divergence(first: Array, second: Array) -> float:
    """Jensen-Shannon divergence of two distributions over targets, in bits, 0 to 1.

    Args:
        first, second: `[T]` weights >= 0, not all 0; scaled to sum to 1.

    Raises:
        SelectionError: shapes that differ, negative weights, nothing to scale.
    """
    p, q = _load(first), _load(second)
    if p.shape != q.shape:
        raise SelectionError(f"shapes {p.shape} and {q.shape} differ")
    if p.sum() == 0 or q.sum() == 0:
        raise SelectionError("a distribution over targets has no mass: measure where there is some")
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)
    bits = 0.5 * (_relative(p, middle) + _relative(q, middle))
    return min(max(bits, 0.0), 1.0)


def _relative(p: FloatArray, q: FloatArray) -> float:
    some = p > 0
    return float((p[some] * np.log2(p[some] / q[some])).sum())


def _load(load: Array) -> FloatArray:
    counts = np.asarray(arrays.to_numpy(load), dtype=np.float64)
    if counts.ndim != 1 or counts.shape[0] == 0 or not np.all(counts >= 0):
        raise SelectionError(
            f"load has shape {counts.shape}, expected counts >= 0 of at least one target [T]"
        )
    return counts


def _pairs(plan: Plan) -> NDArray[np.int64]:
    host = plan.host()
    return np.unique(host.cells())


def _same_size(first: Plan, second: Plan) -> None:
    a = (first.n_sources, first.n_targets)
    b = (second.n_sources, second.n_targets)
    if a != b:
        raise SelectionError(f"plans are {a} and {b} (sources, targets), expected the same")
