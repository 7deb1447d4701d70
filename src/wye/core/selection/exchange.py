"""The balanced assignment of many sources to few targets, exactly, by cheapest exchanges.

Successive shortest paths on the graph of the targets (Ahuja, Magnanti and Orlin 1993, section 9.7).
An edge from a to b costs what the source of a that loses least would lose by moving to b. At prices
q, sources on the best of s - q are the best assignment with the loads that they make; each step
moves one source along every edge of the cheapest path from a target with too many to one with room,
which keeps that true, until no target has too many. Prices near the balanced ones leave few steps.

Where there is more room than sources, rows of zeros fill it.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wye.core.selection.balanced import dual_prices

_ROUNDS = 8


def assign_by_exchange(
    value: NDArray[np.float64], limit: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The best target of every source `[S]` with no target above its limit; None if there is none.

    Args:
        value: `[S, T]`; -inf forbids a pair.
        limit: `[T]` at most S each, at least S in all.
    """
    n_sources, n_targets = value.shape
    if not (np.isfinite(value) & (limit > 0)).any(axis=1).all():
        return None
    room = int(limit.sum()) - n_sources
    full = np.vstack([value, np.zeros((room, n_targets))])
    full[:, limit == 0] = -np.inf
    price = np.where(limit > 0, dual_prices(full, 1, quota=limit, rounds=_ROUNDS), 0.0)
    place = (full - price).argmax(axis=1)
    excess = np.bincount(place, minlength=n_targets) - limit
    cost = np.full((n_targets, n_targets), np.inf)
    mover = np.zeros((n_targets, n_targets), dtype=np.int64)
    stale = list(range(n_targets))
    while (excess > 0).any():
        for a in stale:
            _refresh(a, full, place, cost, mover)
        path = _cheapest(cost, excess)
        if path is None:
            return None
        for a, b in pairwise(path):
            place[mover[a, b]] = b
        excess[path[0]] -= 1
        excess[path[-1]] += 1
        stale = path
    chosen: NDArray[np.int64] = place[:n_sources]
    return chosen


def _refresh(
    a: int,
    full: NDArray[np.float64],
    place: NDArray[np.int64],
    cost: NDArray[np.float64],
    mover: NDArray[np.int64],
) -> None:
    """What leaving target `a` costs for every other target, and who would leave."""
    here = np.nonzero(place == a)[0]
    cost[a] = np.inf
    if here.shape[0]:
        loss = full[here, a][:, None] - full[here]
        best = loss.argmin(axis=0)
        cost[a] = loss[best, np.arange(loss.shape[1])]
        mover[a] = here[best]
    cost[a, a] = 0.0


def _cheapest(cost: NDArray[np.float64], excess: NDArray[np.int64]) -> list[int] | None:
    """Targets on the cheapest way from one with too many to one with room (Bellman and Ford)."""
    n_targets = excess.shape[0]
    far = np.where(excess > 0, 0.0, np.inf)
    before = np.full(n_targets, -1)
    for _ in range(n_targets - 1):
        way = far[:, None] + cost
        nearest = way.argmin(axis=0)
        reached = way[nearest, np.arange(n_targets)]
        # Rounding must not make a loop of edges that cost nothing look like a shorter way.
        better = reached < far - 1e-12
        if not better.any():
            break
        far = np.where(better, reached, far)
        before = np.where(better, nearest, before)
    end = int(np.where(excess < 0, far, np.inf).argmin())
    if not np.isfinite(far[end]) or excess[end] >= 0:
        return None
    path = [end]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
        if len(path) > n_targets:
            raise ArithmeticError("the cheapest exchange runs in a circle: scores of huge range")
    return path[::-1]
