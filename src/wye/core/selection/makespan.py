"""The least largest load: one target per source so that the busiest target finishes first.

Scheduling on parallel machines, identical (cost `[S]`) or unrelated (cost `[S, T]`), with room for
a limited size on each. Longest processing time first (Graham 1969: on identical targets at most
4/3 - 1/(3 T) of the optimum), then moves and swaps away from the busiest target while they help;
on request an exact mixed-integer programme (HiGHS through SciPy).

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.makespan_programme import exact_choice

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SWAP_CELLS = 2_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class MakespanSolution:
    """What `solve_makespan` found.

    Attributes:
        plan: one pair per source; `weight` is its cost.
        makespan: the largest total cost of a target.
        bound: no plan has a smaller one.
        optimal: whether the two meet, or the exact programme proved the plan.
    """

    plan: Plan
    makespan: float
    bound: float
    optimal: bool


def makespan(
    cost: Array,
    n_targets: int | None = None,
    *,
    size: Array | None = None,
    capacity: float | Array | None = None,
    allowed: Array | None = None,
    exact: bool = False,
) -> Plan:
    """Give every source one target so that the largest total cost of a target is least.

    Solved on the host in float64; `plan.weight` is the cost of the pair, gathered from `cost`.
    Without `exact` the plan is good, not proven best. Where the quick search finds no plan within
    the capacity, the exact programme looks for one before an error says that there is none.

    Ties: the lower target index; sources of equal cost in order of their index. NaN: an error. No
    sources: an empty plan.

    Args:
        cost: `[S, T]`, or `[S]` where all targets are alike; finite and >= 0 where allowed.
        n_targets: T, needed with cost `[S]`.
        size: `[S]` what each source takes of a target's capacity; 1 each when not given.
        capacity: what each target holds, a number or `[T]`; no limit when not given.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        exact: prove the least makespan; exponential in the worst case.

    Raises:
        SelectionError: wrong shapes, NaN or negative numbers, a source without a target, no plan
            within the capacity.

    Example:
        >>> import numpy as np
        >>> plan = makespan(np.array([3.0, 3.0, 2.0, 2.0, 2.0]), 2)
        >>> plan.target.tolist()
        [1, 1, 0, 0, 0]
    """
    return solve_makespan(
        cost, n_targets, size=size, capacity=capacity, allowed=allowed, exact=exact
    ).plan


def solve_makespan(
    cost: Array,
    n_targets: int | None = None,
    *,
    size: Array | None = None,
    capacity: float | Array | None = None,
    allowed: Array | None = None,
    exact: bool = False,
    time_limit: float = 60.0,
) -> MakespanSolution:
    """As `makespan`, with the largest load, a lower bound and whether it is proven.

    Args:
        cost, n_targets, size, capacity, allowed, exact: as in `makespan`.
        time_limit: seconds for the exact programme; the best plan found by then stands.

    Raises:
        SelectionError: as `makespan`.
    """
    matrix, sizes, room = _host_problem(cost, n_targets, size, capacity, allowed)
    bound = _lower_bound(matrix, alike=len(cost.shape) == 1 and allowed is None)
    choice = _longest_first(matrix, sizes, room)
    proven = False
    if choice is not None:
        choice = _improve(matrix, sizes, room, choice)
    if choice is None or (exact and _largest(matrix, choice) > bound * (1 + _ROUNDING)):
        found = exact_choice(matrix, sizes, room, time_limit, prove=exact)
        if found is None and choice is None:
            raise SelectionError(
                "no plan within the capacity was found: raise the capacity, allow more pairs, or "
                "split large sources"
            )
        if found is not None:
            proven = exact and found.proven
            better = choice is None or _largest(matrix, found.choice) < _largest(matrix, choice)
            choice = found.choice if better else choice
            bound = max(bound, found.bound)
    assert choice is not None
    reached = _largest(matrix, choice)
    optimal = proven or reached <= bound * (1 + _ROUNDING)
    return MakespanSolution(
        plan=_plan(cost, choice, matrix.shape[1]),
        makespan=reached,
        bound=reached if optimal else bound,
        optimal=optimal,
    )


def _host_problem(
    cost: Array,
    n_targets: int | None,
    size: Array | None,
    capacity: float | Array | None,
    allowed: Array | None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    matrix = np.asarray(arrays.to_numpy(cost), dtype=np.float64)
    if matrix.ndim == 1:
        if n_targets is None or n_targets < 1:
            raise SelectionError(f"n_targets={n_targets}, expected T >= 1 with cost [S]")
        matrix = np.repeat(matrix[:, None], n_targets, axis=1)
    elif matrix.ndim != 2 or (n_targets is not None and n_targets != matrix.shape[1]):
        raise SelectionError(
            f"cost has shape {matrix.shape} with n_targets={n_targets}, expected [S] or [S, T]"
        )
    n, width = matrix.shape
    if allowed is not None:
        mask = np.asarray(arrays.to_numpy(allowed))
        if mask.dtype != np.bool_ or mask.shape not in (matrix.shape, matrix.shape[1:]):
            raise SelectionError(
                f"allowed is {mask.dtype} of shape {mask.shape}, expected booleans "
                f"{matrix.shape} or {matrix.shape[1:]}"
            )
        matrix = np.where(mask, matrix, np.inf)
        if not np.isfinite(matrix).any(axis=1).all():
            stuck = int(np.argmin(np.isfinite(matrix).any(axis=1)))
            raise SelectionError(f"source {stuck} has no allowed target: allow one")
    open_ = matrix if allowed is None else matrix[np.broadcast_to(mask, matrix.shape)]
    if not np.all((open_ >= 0) & (open_ < np.inf)):
        raise SelectionError("cost holds negative, infinite or NaN values, expected finite >= 0")
    sizes = np.ones(n) if size is None else np.asarray(arrays.to_numpy(size), dtype=np.float64)
    if sizes.shape != (n,) or not np.all((sizes >= 0) & (sizes < np.inf)):
        raise SelectionError(f"size has shape {sizes.shape}, expected finite numbers >= 0 [S={n}]")
    limit = np.inf if capacity is None else capacity
    host = limit if isinstance(limit, (int, float)) else arrays.to_numpy(limit)
    room = np.asarray(host, dtype=np.float64)
    if room.shape not in ((), (width,)) or not np.all(room >= 0):
        raise SelectionError(
            f"capacity has shape {room.shape}, expected a number >= 0 or numbers >= 0 [T={width}]"
        )
    return matrix, sizes, np.broadcast_to(room, (width,)).copy()


def _longest_first(matrix: FloatArray, sizes: FloatArray, room: FloatArray) -> IntArray | None:
    shortest = matrix.min(axis=1) if matrix.size else np.zeros(matrix.shape[0])
    for key in (shortest, sizes):
        choice = _greedy(matrix, sizes, room, np.argsort(-key, kind="stable"))
        if choice is not None:
            return choice
    return None


def _greedy(
    matrix: FloatArray, sizes: FloatArray, room: FloatArray, order: IntArray
) -> IntArray | None:
    load, left = np.zeros(matrix.shape[1]), room * (1 + _ROUNDING)
    choice = np.zeros(matrix.shape[0], dtype=np.int64)
    for s in order:
        after = np.where(sizes[s] <= left, load + matrix[s], np.inf)
        t = int(np.argmin(after))
        if after[t] == math.inf:
            return None
        choice[s] = t
        load[t] = after[t]
        left[t] -= sizes[s]
    return choice


def _improve(matrix: FloatArray, sizes: FloatArray, room: FloatArray, choice: IntArray) -> IntArray:
    """Move or swap a source of the busiest target while that lowers the larger of both loads."""
    n, width = matrix.shape
    if n == 0 or width == 1:
        return choice
    rows = np.arange(n)
    choice = choice.copy()
    for _ in range(4 * n + 16):
        load: FloatArray = np.bincount(
            choice, weights=matrix[rows, choice], minlength=width
        ).astype(np.float64)
        left = room * (1 + _ROUNDING) - np.bincount(choice, weights=sizes, minlength=width)
        busiest = int(np.argmax(load))
        peak = load[busiest] * (1 - _ROUNDING)
        if not peak > 0:
            break
        mine = np.nonzero(choice == busiest)[0]
        after = np.maximum(
            load[None, :] + matrix[mine], (load[busiest] - matrix[mine, busiest])[:, None]
        )
        after[(sizes[mine][:, None] > left[None, :])] = np.inf
        after[:, busiest] = np.inf
        i, t = np.unravel_index(int(np.argmin(after)), after.shape)
        if after[i, t] < peak:
            choice[mine[i]] = t
            continue
        swap = _best_swap(matrix, sizes, choice, load, left, busiest, mine, float(peak))
        if swap is None:
            break
        a, b = swap
        choice[a], choice[b] = choice[b], choice[a]
    return choice


def _best_swap(
    matrix: FloatArray,
    sizes: FloatArray,
    choice: IntArray,
    load: FloatArray,
    left: FloatArray,
    busiest: int,
    mine: IntArray,
    peak: float,
) -> tuple[int, int] | None:
    others = np.nonzero(choice != busiest)[0]
    if others.size == 0 or mine.size * others.size > _SWAP_CELLS:
        return None
    there = choice[others]
    here_after = (load[busiest] - matrix[mine, busiest])[:, None] + matrix[others, busiest][None, :]
    there_after = (load[there] - matrix[others, there])[None, :] + matrix[np.ix_(mine, there)]
    grown = sizes[others][None, :] - sizes[mine][:, None]
    after = np.maximum(here_after, there_after)
    after[(grown > left[busiest]) | (-grown > left[there][None, :])] = np.inf
    i, j = np.unravel_index(int(np.argmin(after)), after.shape)
    if not after[i, j] < peak:
        return None
    return int(mine[i]), int(others[j])


def _largest(matrix: FloatArray, choice: IntArray) -> float:
    if choice.shape[0] == 0:
        return 0.0
    paid = matrix[np.arange(choice.shape[0]), choice]
    return float(np.bincount(choice, weights=paid, minlength=matrix.shape[1]).max())


def _lower_bound(matrix: FloatArray, *, alike: bool) -> float:
    n, width = matrix.shape
    if n == 0:
        return 0.0
    least = matrix.min(axis=1)
    bound = float(max(least.max(), least.sum() / width))
    if alike and n > width:
        # Of the T + 1 longest two share a target.
        longest = np.sort(least)[::-1]
        bound = max(bound, float(longest[width - 1] + longest[width]))
    return bound


def _plan(cost: Array, choice: IntArray, n_targets: int) -> Plan:
    xp = namespace(cost)
    target = arrays.like(choice, cost, integer=True)
    if len(cost.shape) == 1:
        weight = xp.reshape(cost, (-1, 1))
    else:
        weight = arrays.gather(cost, target[:, None])
    return Plan.from_rows(target[:, None], weight, n_targets)
