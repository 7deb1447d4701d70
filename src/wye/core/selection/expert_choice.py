"""Every target takes its best sources: perfect balance by construction.

Expert choice (Zhou et al. 2022, arXiv 2202.09368, section 3.2). The choice of one source depends on
the others, later ones included: not for causal models.

Shape letters: S sources, T targets, C capacity.
"""

from __future__ import annotations

from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_scores, masked
from wye.core.selection.top_k import Short, top_k
from wye.core.weights import Weighting


def expert_choice(
    scores: Array,
    capacity: int,
    *,
    allowed: Array | None = None,
    weight: Weighting = "score",
    short: Short = "error",
    check: bool = True,
) -> Plan:
    """Give every target its `capacity` sources of largest score.

    A source gets 0 to T targets. Pairs come target by target, best first. Shapes depend on T and
    the capacity alone unless `short="drop"`.

    Ties: the lower source index first. NaN: an error; undefined with `check=False`. No sources: an
    empty plan, whatever the capacity.

    Args:
        scores: `[S, T]` floats, in the paper a softmax over targets; -inf forbids a pair.
        capacity: sources per target, 1 to S; the paper takes floor(S k / T) for k on average.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`, "softmax" and "share" being over the sources of a target.
        short: what happens to a target with fewer than `capacity` allowed sources, as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: capacity out of range, NaN, a short target under `short="error"`.

    Example:
        >>> import numpy as np
        >>> plan = expert_choice(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), 1)
        >>> plan.source.tolist(), plan.target.tolist()
        ([0, 2], [0, 1])
    """
    n_sources, n_targets = check_scores(scores)
    xp = namespace(scores)
    if n_sources == 0:
        empty = xp.astype(xp.reshape(scores, (-1,)), xp.int64)
        return Plan(empty, empty, xp.reshape(scores, (-1,)), 0, n_targets)
    if capacity < 1 or capacity > n_sources:
        raise SelectionError(
            f"capacity={capacity} with {n_sources} sources, expected 1 to {n_sources}"
        )
    turned = xp.matrix_transpose(masked(scores, allowed))
    try:
        plan = top_k(turned, capacity, weight=weight, short=short, check=check)
    except SelectionError as error:
        raise SelectionError(
            f"seen from the targets (rows are targets, k is the capacity): {error}"
        ) from error
    return Plan(plan.target, plan.source, plan.weight, n_sources, n_targets)
