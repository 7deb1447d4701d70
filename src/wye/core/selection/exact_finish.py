"""The last step of `within_budget`: an exact search over the sources that can still matter.

At a price p every source has a best target; any other choice loses d >= 0, its reduced score's
distance to that best. A plan with losses d and unspent budget u scores D(p) - sum d - p u, so a
plan can beat the one at hand (which lies `gap` under the bound D(p)) only with sum d + p u < gap.
Sources are taken in the order of their least loss; partial plans that cost no less and score no
more than another are dropped (Pisinger 1995), and so are those that can reach no plan under the
gap, which shrinks with every better plan found. A first pass keeps only the partial plans of least
loss, to find a good plan fast; the second, under the gap that leaves, is exact. Scores on a grid
(0 or 1, tenths) leave no total between two of its steps, so there a plan must beat the one at hand
by a whole step.

Shape letters: S sources, T targets, P partial plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROUNDING = 1e-12
# What a step of the grid counts for in comparisons of rounded totals.
_ALMOST = 0.999
_GRIDS = (1.0, 0.5, 0.25, 0.2, 0.1, 0.05, 0.025, 0.02, 0.01)
_BEAM = 8192
_BEAM_STEPS = 400
_STEPS = 4000


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
    step = _ALMOST * grid_step(value)
    gap = float(np.sum(loss[rows, choice])) + price * spare - step
    beam = _Search(_moves(loss, cost, base, gap), room, price, gap, step)
    proven = beam.run(width=_BEAM, max_states=max_states, max_steps=_BEAM_STEPS)
    found = beam.plan()
    if not proven:
        exact = _Search(_moves(loss, cost, base, beam.gap), room, price, beam.gap, step)
        proven = exact.run(width=max_states, max_states=max_states, max_steps=_STEPS)
        found = exact.plan() or found
    if found is None:
        return choice, proven
    improved = base.copy()
    for source, target in found:
        improved[source] = target
    if float(np.sum(cost[rows, improved])) > limit:
        return choice, False
    if np.sum(value[rows, improved]) <= np.sum(value[rows, choice]):
        return choice, proven
    return improved, proven


def grid_step(value: FloatArray) -> float:
    """The coarsest of a few steps of which all finite scores are multiples; 0 where none is."""
    finite = value[np.isfinite(value)]
    for step in _GRIDS:
        # A look at the first few spares most data the full pass.
        if _on_grid(finite[:256], step) and _on_grid(finite, step):
            return step
    return 0.0


def _on_grid(value: FloatArray, step: float) -> bool:
    steps = value / step
    return bool(np.all(np.abs(steps - np.rint(steps)) <= 1e-9 * np.maximum(1.0, np.abs(steps))))


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


class _Search:
    """Partial plans over the moves of one source after another, and the best plan among them."""

    def __init__(self, moves: _Moves, room: float, price: float, gap: float, step: float) -> None:
        self.moves = moves
        self.room = room
        self.price = price
        self.gap = gap
        self._step = step
        self._history: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        self._best: tuple[int, int] | None = None
        if room >= 0 and price * room < gap:
            self.gap, self._best = price * room - step, (0, 0)

    def run(self, *, width: int, max_states: int, max_steps: int) -> bool:
        """Search, and say whether nothing was cut short, so that the best plan is proven.

        Args:
            width: keep at most this many partial plans at a time, those of least loss.
            max_states: stop after this many in all.
            max_steps: stop after the moves of this many sources.
        """
        moves = self.moves
        extra, loss = np.zeros(1), np.zeros(1)
        enough = _ROUNDING * max(1.0, abs(self.gap))
        spent, whole = 0, True
        for step in range(moves.source.shape[0]):
            a, b = int(moves.start[step]), int(moves.start[step + 1])
            if self.gap <= enough or moves.loss[a:b].min() >= self.gap or not extra.shape[0]:
                break
            if step >= max_steps or spent > max_states:
                return False
            # -1 leaves the source where it is.
            move = np.repeat(np.arange(a - 1, b), extra.shape[0])
            move[: extra.shape[0]] = -1
            parent = np.tile(np.arange(extra.shape[0]), b - a + 1)
            extra = np.concatenate([extra, *(extra + moves.extra[m] for m in range(a, b))])
            loss = np.concatenate([loss, *(loss + moves.loss[m] for m in range(a, b))])
            winner = self._improve(extra, loss)
            up, down = moves.up[step + 1], moves.down[step + 1]
            keep = _kept(extra, loss, self.room - extra, self.price, self.gap, up, down)
            if keep.shape[0] > width:
                whole = False
                keep = keep[np.argpartition(loss[keep], width - 1)[:width]]
            if winner is not None:
                # The best plan so far is kept for its history even where it leads no further.
                keep = np.append(keep[keep != winner], winner)
                self._best = (step + 1, keep.shape[0] - 1)
            self._history.append((parent[keep].astype(np.int32), move[keep].astype(np.int32)))
            extra, loss = extra[keep], loss[keep]
            spent += keep.shape[0]
        return whole

    def plan(self) -> list[tuple[int, int]] | None:
        """Sources that leave the base choice and their targets; None where no plan was better."""
        if self._best is None:
            return None
        step, index = self._best
        taken = []
        while step > 0:
            parent, move = self._history[step - 1]
            if move[index] >= 0:
                target = int(self.moves.target[move[index]])
                taken.append((int(self.moves.source[step - 1]), target))
            index = int(parent[index])
            step -= 1
        return taken

    def _improve(self, extra: FloatArray, loss: FloatArray) -> int | None:
        """The position of a plan that beats the best so far, whose gap becomes the gap."""
        unspent = self.room - extra
        total = np.where(unspent >= 0, loss + self.price * unspent, np.inf)
        winner = int(np.argmin(total))
        if not total[winner] < self.gap:
            return None
        self.gap = float(total[winner]) - self._step
        return winner


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
