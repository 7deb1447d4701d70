"""The fewest targets of each source that together hold a share p of its score.

Nucleus selection (Holtzman et al. 2019, arXiv 1904.09751, equation 2) on routing probabilities, as
in dynamic mixture of experts (Huang et al. 2024, arXiv 2403.07652).

Shape letters: S sources, T targets, K choices.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_k, check_scores, masked, refuse_nan
from wye.core.weights import Weighting, weigh_rows


def top_p(
    scores: Array,
    p: float,
    *,
    min_k: int = 1,
    max_k: int | None = None,
    allowed: Array | None = None,
    weight: Weighting = "score",
    static: bool = False,
    check: bool = True,
) -> Plan:
    """Send every source to its best targets until they hold the share `p` of the source's total.

    A target is taken when those before it hold less than `p`; so there is always one, and a target
    of score 0 is never needed. Pairs come source by source, best first.

    Ties: the lower target index first (with `check=False` and PyTorch, as `torch.topk` does). NaN:
    an error; undefined with `check=False`. No sources: an empty plan.

    Args:
        scores: `[S, T]` probabilities, or any scores >= 0; rows need not sum to 1. -inf forbids.
        p: share, 0 < p <= 1.
        min_k: take at least this many allowed targets.
        max_k: take at most this many; T when not given.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`.
        static: keep all `S * max_k` pairs and give those beyond the share weight 0, so that shapes
            do not depend on the data.
        check: read the values to refuse NaN, negative scores and sources without any score. Pass
            False, with `static=True`, to trace under `torch.compile` in one graph.

    Raises:
        SelectionError: p, min_k or max_k out of range, NaN, negative scores, an empty row.

    Example:
        >>> import numpy as np
        >>> top_p(np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]), 0.75).target.tolist()
        [1, 2, 0]
    """
    _, n_targets = check_scores(scores)
    max_k = n_targets if max_k is None else max_k
    check_k(max_k, n_targets)
    check_k(min_k, max_k)
    if not 0 < p <= 1:
        raise SelectionError(f"p={p}, expected a share with 0 < p <= 1")
    xp = namespace(scores)
    ranked = masked(scores, allowed)
    if check:
        _refuse(ranked)
    index = arrays.largest(ranked, max_k, distinct=True, ordered=check)
    values = arrays.gather(ranked, index)
    mass = xp.where(values == -float("inf"), xp.zeros_like(values), arrays.detach(values))
    before = xp.cumulative_sum(mass, axis=1) - mass
    whole = arrays.detach(ranked)
    total = xp.sum(xp.where(whole == -float("inf"), xp.zeros_like(whole), whole), axis=1)
    rank = arrays.arange(max_k, index)[None, :]
    # The running sum rounds: past the last score above zero nothing is left to hold.
    needed = (before < p * total[:, None]) & (mass > 0)
    taken = (needed | (rank < min_k)) & (values > -float("inf"))
    weights = weigh_rows(xp.where(taken, values, xp.full_like(values, -float("inf"))), weight)
    return Plan.from_rows(index, weights, n_targets, keep=None if static else taken)


def _refuse(ranked: Array) -> None:
    refuse_nan(ranked)
    xp = namespace(ranked)
    if bool(xp.any((ranked < 0) & (ranked > -float("inf")))):
        raise SelectionError(
            "scores hold negative values, of which a share means nothing: pass probabilities, "
            "for instance a softmax"
        )
    if bool(xp.any(ranked == float("inf"))):
        raise SelectionError("scores hold +inf, of which a share means nothing: pass finite scores")
    empty = xp.all(ranked <= 0, axis=1)
    if bool(xp.any(empty)):
        raise SelectionError(
            f"source {int(xp.argmax(xp.astype(empty, xp.int64)))} has no score above 0 at any "
            "allowed target: allow one"
        )
