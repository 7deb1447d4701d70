"""Every target that scores at least a threshold.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_scores, masked, refuse_nan
from wye.core.weights import Weighting, weigh_rows


def threshold(
    scores: Array,
    least: float | Array,
    *,
    fallback: bool = False,
    allowed: Array | None = None,
    weight: Weighting = "score",
    check: bool = True,
) -> Plan:
    """Send every source to all targets whose score is at least `least`.

    A source may get no target, which is a legal outcome. Pairs come source by source, in order of
    the target index. The length of the plan depends on the data, so this does not compile.

    Ties: a score equal to the threshold is taken; `fallback` prefers the lower target index. NaN:
    an error; with `check=False` a NaN score is not taken. No sources: an empty plan.

    Args:
        scores: `[S, T]` floats; -inf forbids a pair.
        least: a number, or an array that broadcasts to `[S, T]` (`[T]`, `[S, 1]`).
        fallback: a source with nothing at the threshold gets its best allowed target.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`.
        check: read the values to refuse NaN.

    Raises:
        SelectionError: wrong shapes, NaN, or with `fallback` a source without an allowed target.

    Example:
        >>> import numpy as np
        >>> threshold(np.array([[0.2, 0.5, 0.7], [0.1, 0.0, 0.3]]), 0.5).target.tolist()
        [1, 2]
    """
    n_sources, n_targets = check_scores(scores)
    xp = namespace(scores)
    ranked = masked(scores, allowed)
    if check:
        refuse_nan(ranked)
    taken = (ranked >= least) & (ranked > -float("inf"))
    if tuple(taken.shape) != (n_sources, n_targets):
        raise SelectionError(
            f"least has shape {tuple(getattr(least, 'shape', ()))}, which does not broadcast to "
            f"the scores' shape {(n_sources, n_targets)}"
        )
    if fallback and n_sources:
        best = arrays.largest(ranked, 1)
        if not bool(xp.all(arrays.gather(ranked, best) > -float("inf"))):
            raise SelectionError("a source has no allowed target to fall back on: allow one")
        lonely = ~xp.any(taken, axis=1, keepdims=True)
        taken = taken | (lonely & (arrays.arange(n_targets, best)[None, :] == best))
    index = xp.broadcast_to(arrays.arange(n_targets, ranked)[None, :], tuple(ranked.shape))
    weights = weigh_rows(xp.where(taken, ranked, xp.full_like(ranked, -float("inf"))), weight)
    return Plan.from_rows(index, weights, n_targets, keep=taken)
