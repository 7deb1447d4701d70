"""Full targets: which pairs keep their place when a target takes only so many.

Switch (arXiv 2101.03961, equation 3) drops by position; batch-prioritised routing (Riquelme et al.
2021, arXiv 2106.05974, section 4.1) by score.

Shape letters: T targets, N routed pairs.
"""

from __future__ import annotations

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan


def places(plan: Plan, priority: Array | None = None) -> Array:
    """The place of every pair in the queue of its target, integers `[N]` from 0.

    Args:
        plan: N pairs.
        priority: `[N]`, larger first, equal ones in the plan's order; the plan's order alone when
            not given.

    Raises:
        SelectionError: `priority` has another shape.
    """
    if priority is not None and tuple(priority.shape) != tuple(plan.source.shape):
        raise SelectionError(
            f"priority has shape {tuple(priority.shape)}, expected [N={len(plan)}]"
        )
    xp = namespace(plan.target)
    n = int(plan.target.shape[0])
    if priority is None:
        order, offsets = plan.by_target()
        queue = plan.target
    else:
        ranked = xp.argsort(arrays.detach(priority), descending=True, stable=True)
        queue = xp.take(plan.target, ranked, axis=0)
        inner = xp.argsort(queue, stable=True)
        order = xp.take(ranked, inner, axis=0)
        ends = xp.cumulative_sum(plan.load(), include_initial=True)
        offsets = ends
    start = xp.take(offsets, xp.take(plan.target, order, axis=0), axis=0)
    place = arrays.arange(n, plan.target) - start
    back = xp.argsort(order, stable=True)
    return xp.take(place, back, axis=0)


def capped(
    plan: Plan, capacity: int | Array, *, priority: Array | None = None, static: bool = False
) -> Plan:
    """The pairs that find a place when target t takes at most `capacity` of them.

    The order of the pairs stays. Ties in priority: the earlier pair. Empty plan: itself.

    Args:
        plan: N pairs.
        capacity: pairs per target, an integer >= 0 or integers `[T]`.
        priority: `[N]`, larger first; `plan.weight` drops the lowest scores. The plan's order when
            not given. (GShard's second choices after all first ones: minus the rank of the choice.)
        static: keep all pairs and give those without a place weight 0, so that shapes do not
            depend on the data.

    Raises:
        SelectionError: a negative capacity, `priority` of another shape.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> plan = top_k(np.array([[0.6, 0.4], [0.9, 0.1]]))
        >>> capped(plan, 1, priority=plan.weight).source.tolist()
        [1]
    """
    if isinstance(capacity, int):
        if capacity < 0:
            raise SelectionError(f"capacity={capacity}, expected at least 0")
        keep = places(plan, priority) < capacity
    else:
        if tuple(capacity.shape) != (plan.n_targets,):
            raise SelectionError(
                f"capacity has shape {tuple(capacity.shape)}, expected [T={plan.n_targets}]"
            )
        limit = namespace(capacity).take(capacity, plan.target, axis=0)
        keep = places(plan, priority) < limit
    if not static:
        return plan.where(keep)
    xp = namespace(plan.weight)
    return plan.with_weight(xp.where(keep, plan.weight, xp.zeros_like(plan.weight)))
