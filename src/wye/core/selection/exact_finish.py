"""The last step of `within_budget`: an exact search over the sources that can still matter.

At a price p every source has a best target; any other choice loses d >= 0, its reduced score's
distance to that best. A plan with losses d and unspent budget u scores D(p) - sum d - p u, so a
plan can beat the one at hand (which lies `gap` under the bound D(p)) only with sum d + p u < gap.
Sources are taken in the order of their least loss; partial plans that cost no less and score no
more than another are dropped (Pisinger 1995), and so are those that can reach no plan under the
gap, which shrinks with every better plan found.

Shape letters: S sources, T targets, P partial plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROUNDING = 1e-12


def finish(
    value: FloatArray,
    cost: FloatArray,
    choice: IntArray,
    price: float,
    limit: float,
    max_states: int,
) -> tuple[IntArray, bool]:
    """The best choice `[S]` within `limit`, and whether it is proven best.

    Args:
        value: `[S, T]` scores, -inf where forbidden.
        cost: `[S, T]`.
        choice: `[S]` the plan at hand, within the limit.
        price: the dual price, > 0.
        limit: total cost that may be spent.
        max_states: give up proving after this many partial plans in all.
    """
    rows = np.arange(value.shape[0])
    reduced = value - price * cost
    base = np.argmax(reduced, axis=1)
    loss = reduced[rows, base][:, None] - reduced
    room = limit - float(np.sum(cost[rows, base]))
    spare = limit - float(np.sum(cost[rows, choice]))
    gap = float(np.sum(loss[rows, choice])) + price * spare
    moves = _moves(loss, cost, base, gap)
    best, proven = _search(moves, room, price, gap, max_states)
    if best is None:
        return choice, proven
    improved = base.copy()
    for source, target in best:
        improved[source] = target
    if float(np.sum(cost[rows, improved])) > limit:
        return choice, False
    if np.sum(value[rows, improved]) <= np.sum(value[rows, choice]):
        return choice, proven
    return improved, proven


@dataclass(frozen=True)
class _Moves:
    """Departures from the base choice, grouped by source, least loss first.

    Attributes:
        source: `[G]` sources that have a move.
        start: `[G + 1]` offsets into the move arrays.
        target, loss, extra: per move where it goes, what it loses and what it costs more.
        up, down: `[G + 1]` the most that the sources from here on can add to or take off the cost.
    """

    source: IntArray
    start: IntArray
    target: IntArray
    loss: FloatArray
    extra: FloatArray
    up: FloatArray
    down: FloatArray


def _moves(loss: FloatArray, cost: FloatArray, base: IntArray, gap: float) -> _Moves:
    open_ = loss < gap
    open_[np.arange(base.shape[0]), base] = False
    source, target = np.nonzero(open_)
    lost = loss[source, target]
    extra = cost[source, target] - cost[source, base[source]]
    useful = (extra != 0) | (lost <= 0)
    source, target, lost, extra = (a[useful] for a in (source, target, lost, extra))
    least = np.full(base.shape[0], np.inf)
    np.minimum.at(least, source, lost)
    order = np.lexsort((source, least[source]))
    source, target, lost, extra = (a[order] for a in (source, target, lost, extra))
    first = np.nonzero(np.diff(source, prepend=-1))[0]
    start = np.append(first, source.shape[0])
    n = first.shape[0]
    up, down = np.zeros(n + 1), np.zeros(n + 1)
    if n:
        rises = np.maximum.reduceat(np.maximum(extra, 0.0), first)
        falls = np.minimum.reduceat(np.minimum(extra, 0.0), first)
        up[:n] = np.cumsum(rises[::-1])[::-1]
        down[:n] = np.cumsum(falls[::-1])[::-1]
    return _Moves(source[first], start, target, lost, extra, up, down)


def _search(
    moves: _Moves, room: float, price: float, gap: float, max_states: int
) -> tuple[list[tuple[int, int]] | None, bool]:
    extra, loss = np.zeros(1), np.zeros(1)
    history: list[tuple[IntArray, IntArray]] = []
    best: tuple[int, int] | None = None
    enough = _ROUNDING * max(1.0, abs(gap))
    if room >= 0 and price * room < gap:
        gap, best = price * room, (0, 0)
    spent = 0
    for step in range(moves.source.shape[0]):
        a, b = int(moves.start[step]), int(moves.start[step + 1])
        if gap <= enough or moves.loss[a:b].min() >= gap:
            break
        parent = np.tile(np.arange(extra.shape[0]), b - a + 1)
        move = np.repeat(np.arange(a - 1, b), extra.shape[0])
        move[: extra.shape[0]] = -1
        extra = np.concatenate([extra, *(extra + moves.extra[m] for m in range(a, b))])
        loss = np.concatenate([loss, *(loss + moves.loss[m] for m in range(a, b))])
        unspent = room - extra
        total = np.where(unspent >= 0, loss + price * unspent, np.inf)
        winner = int(np.argmin(total))
        improves = total[winner] < gap
        if improves:
            gap = float(total[winner])
        keep = _kept(extra, loss, unspent, price, gap, moves.up[step + 1], moves.down[step + 1])
        if improves and winner not in keep:
            keep = np.append(keep, winner)
            keep = keep[np.argsort(extra[keep], kind="stable")]
        extra, loss = extra[keep], loss[keep]
        history.append((parent[keep], move[keep]))
        if improves:
            best = (step + 1, int(np.nonzero(keep == winner)[0][0]))
        spent += keep.shape[0]
        if keep.shape[0] == 0:
            break
        if spent > max_states:
            return _trace(moves, history, best), False
    return _trace(moves, history, best), True


def _kept(
    extra: FloatArray,
    loss: FloatArray,
    unspent: FloatArray,
    price: float,
    gap: float,
    up: float,
    down: float,
) -> IntArray:
    reachable = loss + price * np.maximum(0.0, unspent - up) < gap
    reachable &= unspent - down >= 0
    index = np.nonzero(reachable)[0]
    score = price * extra[index] - loss[index]
    order = np.lexsort((-score, extra[index]))
    index, score = index[order], score[order]
    if index.shape[0] > 1:
        better = np.empty(index.shape[0], dtype=bool)
        better[0] = True
        better[1:] = score[1:] > np.maximum.accumulate(score)[:-1]
        index = index[better]
    return index


def _trace(
    moves: _Moves, history: list[tuple[IntArray, IntArray]], best: tuple[int, int] | None
) -> list[tuple[int, int]] | None:
    if best is None:
        return None
    step, index = best
    taken = []
    while step > 0:
        parent, move = history[step - 1]
        if move[index] >= 0:
            taken.append((int(moves.source[step - 1]), int(moves.target[move[index]])))
        index = int(parent[index])
        step -= 1
    return taken
