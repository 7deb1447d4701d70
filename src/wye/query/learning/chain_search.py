"""Chains of models with a threshold after each: how one runs, and the best one under a budget.

A chain asks its models one after the other and keeps the first answer whose distance d = 1 - score
lies below the threshold of its stage; the last stage accepts always. Every answer asked for is
paid. Source: FrugalGPT, arXiv 2305.05176, section 3 (LLM cascade):

    max over chains and thresholds of mean quality,  such that mean cumulative cost <= budget

Search: for every ordered chain, a grid over quantiles of d among the queries that reach the stage;
then, for the best chains, each threshold in turn over all its possible values until none improves.

Shape letters: Q queries, M models, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from wye.query.answers.voting import IntArray
from wye.query.base import FloatArray, RouterError

GRID_QUERIES = 2000
REFINED = 8
_ROUNDS = 20


@dataclass(frozen=True)
class Chain:
    """Models in the order in which they are asked, and when an answer is kept.

    Attributes:
        stages: columns of the models, 1 or more, none twice.
        thresholds: of each stage but the last: an answer is kept where 1 - score is below it.
    """

    stages: tuple[int, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise RouterError(f"stages {self.stages}, expected one model or more, none twice")
        if len(self.thresholds) != len(self.stages) - 1 or np.isnan(self.thresholds).any():
            raise RouterError(
                f"{len(self.stages)} stages with thresholds {self.thresholds}, expected one number "
                "for each stage but the last"
            )


@dataclass(frozen=True)
class ChainOutcome:
    """What a chain did on Q queries with recorded answers.

    Attributes:
        quality: `[Q]` of the answers kept.
        cost: `[Q]` of all answers asked for.
        answered_by: `[Q]` column of the model whose answer was kept.
        stage: `[Q]` at which it was, from 0.
    """

    quality: FloatArray
    cost: FloatArray
    answered_by: IntArray
    stage: IntArray


def run_chain(
    chain: Chain, score: FloatArray, quality: FloatArray, cost: FloatArray
) -> ChainOutcome:
    """Lead Q queries through `chain`.

    Args:
        score: `[Q, M]` trust in each answer, 0 to 1.
        quality, cost: `[Q, M]` of each answer.

    Raises:
        RouterError: shapes differ, or a value that a stage needs is not finite.

    Example:
        >>> score, quality = np.array([[0.9, 0.5], [0.2, 0.5]]), np.array([[1.0, 1.0], [0.0, 1.0]])
        >>> cost = np.array([[1.0, 10.0], [1.0, 10.0]])
        >>> found = run_chain(Chain((0, 1), (0.5,)), score, quality, cost)
        >>> found.quality.tolist(), found.cost.tolist()
        ([1.0, 1.0], [1.0, 11.0])
    """
    columns = list(chain.stages)
    checked(score[:, columns], quality[:, columns], cost[:, columns])
    kept = np.zeros((len(score), len(columns)), dtype=np.bool_)
    kept[:, :-1] = 1.0 - score[:, columns[:-1]] < np.array(chain.thresholds)
    kept[:, -1] = True
    stage = kept.argmax(axis=1)
    rows = np.arange(len(score))
    answered_by = np.array(columns, np.intp)[stage]
    paid = np.cumsum(cost[:, columns], axis=1)[rows, stage]
    return ChainOutcome(quality[rows, answered_by], paid, answered_by, stage)


def search_chain(
    score: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    budget: float,
    *,
    max_length: int = 3,
    grid: int = 40,
    seed: int = 0,
) -> Chain:
    """The chain of highest mean quality whose mean cost is at most `budget`; ties to the cheaper.

    Args:
        score, quality, cost: `[Q, M]`, finite. Scores should come from scorers that had not seen
            the query, else the thresholds trust them too much.
        budget: USD a query, on the average of these.
        max_length: the most models in a chain.
        grid: points on each axis of the first search.
        seed: of the 2000 queries on which the grid is searched where there are more.

    Raises:
        RouterError: no model alone is within the budget, or arrays and parameters that do not fit.
    """
    checked(score, quality, cost)
    if max_length < 1 or grid < 1 or not np.isfinite(budget):
        raise RouterError(f"max_length={max_length}, grid={grid}, budget={budget}; expected >= 1")
    cheapest = float(cost.mean(axis=0).min())
    # The rounding of a mean must not forbid a model that costs just the budget.
    budget *= 1 + 1e-9
    if cheapest > budget:
        raise RouterError(
            f"budget={budget} USD a query is less than the cheapest model costs ({cheapest:.6g})"
        )
    some = np.arange(len(score))
    if len(some) > GRID_QUERIES:
        some = np.sort(np.random.default_rng(seed).permutation(some)[:GRID_QUERIES])
    grids = _Sorted(score[some], quality[some], cost[some], grid)
    found = []
    for length in range(1, min(max_length, score.shape[1]) + 1):
        for stages in permutations(range(score.shape[1]), length):
            point = grids.best(stages, budget)
            if point is not None:
                found.append(point)
    found.sort(key=lambda p: (-p[0], p[1]))
    refined = [_refined(c, score, quality, cost, budget) for _, _, c in found[:REFINED]]
    # A single model is exact without a grid, which may have missed it on a part of the queries.
    alone = [Chain((m,), ()) for m in range(score.shape[1])]
    return min(
        (c for c in [*refined, *alone] if _cost(c, score, quality, cost) <= budget),
        key=lambda c: _rank(c, score, quality, cost),
    )


def checked(*arrays: FloatArray) -> None:
    """Require arrays `[Q, M]` of one shape, with a query at least, finite everywhere."""
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or not shapes[0][0]:
        raise RouterError(f"arrays have shapes {shapes}, expected [Q, M] alike, with Q at least 1")
    if not all(np.isfinite(a).all() for a in arrays):
        raise RouterError(
            "a chain needs score, quality and cost of every answer; leave out queries with unknown "
            "ones"
        )


class _Sorted:
    """Queries sorted by the distance of each answer, for sums over all quantiles at once."""

    def __init__(self, score: FloatArray, quality: FloatArray, cost: FloatArray, grid: int) -> None:
        self.quality, self.cost, self.grid = quality, cost, grid
        self.distance = 1.0 - score
        self.order = np.argsort(self.distance, axis=0, kind="stable")
        self.cuts = [_cuts(self.distance[o, m]) for m, o in enumerate(self.order.T)]

    def best(self, stages: tuple[int, ...], budget: float) -> tuple[float, float, Chain] | None:
        """Quality, cost and chain of the best point of the grid; None where all cost too much."""
        n = len(self.distance)
        if len(stages) == 1:
            quality, cost = self.quality[:, stages[0]].mean(), self.cost[:, stages[0]].mean()
            return None if cost > budget else (float(quality), float(cost), Chain(stages, ()))
        first, rest = stages[0], stages[1:]
        order = self.order[:, first]
        accepted = np.unique(self.cuts[first].at_least(np.linspace(0, n, self.grid + 1)))
        passed = np.ones((len(accepted), n), dtype=np.bool_)
        for g, count in enumerate(accepted):
            passed[g, order[:count]] = False
        value = self.quality[:, first] @ ~passed.T
        price = np.full(len(accepted), self.cost[:, first].sum())
        ends: list[tuple[float, float, tuple[float, ...]]] = []
        for g, count in enumerate(accepted):
            before = self.cuts[first].threshold(int(count))
            for more, extra, later in self._rest(rest, passed[g]):
                ends.append((value[g] + more, price[g] + extra, (before, *later)))
        within = [e for e in ends if e[1] <= budget * n]
        if not within:
            return None
        top = min(within, key=lambda e: (-e[0], e[1]))
        return float(top[0]) / n, float(top[1]) / n, Chain(stages, top[2])

    def _rest(
        self, stages: tuple[int, ...], here: NDArray[np.bool_]
    ) -> list[tuple[float, float, tuple[float, ...]]]:
        """Sums of quality and cost over the queries `here`, for each point of the grid behind."""
        first = stages[0]
        if len(stages) == 1:
            return [
                (
                    float(self.quality[here, first].sum()),
                    float(self.cost[here, first].sum()),
                    (),
                )
            ]
        order = self.order[:, first]
        inside = here[order]
        reached = np.flatnonzero(inside)
        wanted = np.linspace(0, len(reached), self.grid + 1).round().astype(int)
        places = np.append(reached, len(order))[wanted]
        accepted = np.unique(self.cuts[first].at_least(places))
        found = []
        paid = float(self.cost[here, first].sum())
        if len(stages) > 2:
            for count in accepted:
                left = here.copy()
                left[order[:count]] = False
                kept = float(self.quality[here & ~left, first].sum())
                for more, extra, later in self._rest(stages[1:], left):
                    threshold = self.cuts[first].threshold(int(count))
                    found.append((kept + more, paid + extra, (threshold, *later)))
            return found
        last = stages[1]
        gained = np.cumsum(np.where(inside, self.quality[order, first], 0.0))
        passed_on = np.cumsum(np.where(inside, self.quality[order, last], 0.0))
        billed = np.cumsum(np.where(inside, self.cost[order, last], 0.0))
        for count in accepted:
            at = int(count) - 1
            kept = float(gained[at]) if count else 0.0
            more = float(passed_on[-1] - (passed_on[at] if count else 0.0))
            extra = float(billed[-1] - (billed[at] if count else 0.0))
            found.append((kept + more, paid + extra, (self.cuts[first].threshold(int(count)),)))
        return found


@dataclass(frozen=True)
class _Cuts:
    """Where a sorted list of distances can be cut: never between equal ones."""

    distance: FloatArray
    counts: IntArray

    def at_least(self, wanted: NDArray[np.generic]) -> IntArray:
        """The least possible numbers of accepted answers that reach the wanted ones."""
        found = np.searchsorted(self.counts, np.asarray(wanted, np.float64).round())
        return self.counts[np.minimum(found, len(self.counts) - 1)]

    def threshold(self, count: int) -> float:
        """A threshold below which exactly `count` distances lie."""
        if count == 0:
            return float(self.distance[0])
        if count == len(self.distance):
            return float(np.nextafter(self.distance[-1], np.inf))
        return float((self.distance[count - 1] + self.distance[count]) / 2)


def _cuts(distance: FloatArray) -> _Cuts:
    middle = (distance[:-1] + distance[1:]) / 2
    # Neighbours so close that no number lies between them cannot be told apart.
    apart = np.flatnonzero((distance[:-1] < middle) & (middle <= distance[1:])) + 1
    return _Cuts(distance, np.concatenate([[0], apart, [len(distance)]]).astype(np.intp))


def _refined(
    chain: Chain, score: FloatArray, quality: FloatArray, cost: FloatArray, budget: float
) -> Chain:
    """One threshold after the other over all its values, until none improves."""
    thresholds = list(chain.thresholds)
    best = chain
    for _ in range(_ROUNDS):
        before = best
        for place in range(len(thresholds)):
            trial = _best_cut(best, place, score, quality, cost, budget)
            better = _rank(trial, score, quality, cost) < _rank(best, score, quality, cost)
            over = _cost(best, score, quality, cost) > budget
            if _cost(trial, score, quality, cost) <= budget and (better or over):
                best = trial
        if best == before:
            break
    return best


def _best_cut(
    chain: Chain,
    place: int,
    score: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    budget: float,
) -> Chain:
    """The chain with the best threshold at `place`, the others staying."""
    model = chain.stages[place]
    distance = 1.0 - score
    here = np.ones(len(score), dtype=np.bool_)
    for earlier, threshold in zip(chain.stages[:place], chain.thresholds[:place], strict=True):
        here &= distance[:, earlier] >= threshold
    if not here.any():
        return chain
    tail = Chain(chain.stages[place + 1 :], chain.thresholds[place + 1 :])
    after = run_chain(tail, score[here], quality[here], cost[here])
    order = np.argsort(distance[here, model], kind="stable")
    cuts = _cuts(distance[here, model][order])
    gain = np.concatenate([[0.0], np.cumsum((quality[here, model] - after.quality)[order])])
    saved = np.concatenate([[0.0], np.cumsum(after.cost[order])])
    never = (float(distance[here, model].min()),)
    base = run_chain(
        Chain(chain.stages, (*chain.thresholds[:place], *never, *chain.thresholds[place + 1 :])),
        score,
        quality,
        cost,
    )
    price = base.cost.sum() - saved[cuts.counts]
    allowed = price <= budget * len(score)
    value = np.where(allowed, gain[cuts.counts], -np.inf)
    top = np.flatnonzero(value == value.max())
    count = int(cuts.counts[top[price[top].argmin()]])
    threshold = cuts.threshold(count)
    changed = (*chain.thresholds[:place], threshold, *chain.thresholds[place + 1 :])
    return Chain(chain.stages, changed)


def _cost(chain: Chain, score: FloatArray, quality: FloatArray, cost: FloatArray) -> float:
    return float(run_chain(chain, score, quality, cost).cost.mean())


def _rank(
    chain: Chain, score: FloatArray, quality: FloatArray, cost: FloatArray
) -> tuple[float, float, int]:
    found = run_chain(chain, score, quality, cost)
    return -float(found.quality.mean()), float(found.cost.mean()), len(chain.stages)
