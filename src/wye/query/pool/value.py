"""What a pool of models is worth: the quality that routing reaches with these models alone.

Achievable value of a subset S: each query goes to argmax over S of expected quality - w x expected
cost, where the expectations are cross-fitted (`wye.query.cross_fit`), and what counts is what
really came out. An estimate of one model does not depend on which others may be chosen, so one
cross-fit serves every subset. Under a budget the weights w form a curve, read at the realised mean
cost (`wye.query.metrics.curve.quality_at`). The oracle's value is the same with outcomes in the
place of expectations.

Shape letters: Q queries, M models, W cost weights, B draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np

from wye.query.base import FloatArray
from wye.query.metrics.curve import quality_at
from wye.query.metrics.resample import Resample

WEIGHTS = 24


@dataclass(frozen=True)
class Serving:
    """Which model serves each query at each weight, by what it scored and what then came out.

    Attributes:
        score: `[W, Q]` of the serving model, -inf before there is one.
        column: `[W, Q]` that model.
        quality, cost: `[W, Q]` of its answer.
    """

    score: FloatArray
    column: np.ndarray
    quality: FloatArray
    cost: FloatArray


class PoolValue:
    """The value of any subset of M models.

    Args:
        expected_quality, expected_cost: `[Q, M]` by which queries are routed; the cost may be None
            where there is no budget.
        quality, cost: `[Q, M]` what came out.
        budget: USD per query that the mean cost may be at most; None for quality at any cost.
    """

    def __init__(
        self,
        expected_quality: FloatArray,
        expected_cost: FloatArray | None,
        quality: FloatArray,
        cost: FloatArray | None,
        budget: float | None,
    ) -> None:
        self.quality = quality
        self.cost = np.zeros_like(quality) if cost is None else cost
        self.budget = budget
        if budget is None or expected_cost is None:
            self.score = expected_quality[None]
        else:
            spread = float(np.ptp(self.cost.mean(axis=0))) or 1.0
            weights = np.concatenate([[0.0], np.geomspace(0.003, 30.0, WEIGHTS - 2) / spread])
            rising = [expected_quality - w * expected_cost for w in weights]
            self.score = np.stack([*rising, -expected_cost])

    @property
    def n_models(self) -> int:
        """M."""
        return int(self.quality.shape[1])

    def nobody(self) -> Serving:
        """Before any model serves."""
        shape = self.score.shape[:2]
        return Serving(
            np.full(shape, -np.inf), np.full(shape, -1), np.zeros(shape), np.full(shape, np.inf)
        )

    def with_model(self, serving: Serving, column: int) -> Serving:
        """`serving` once `column` may serve too; ties go to the model that was there."""
        better = self.score[:, :, column] > serving.score
        return Serving(
            np.where(better, self.score[:, :, column], serving.score),
            np.where(better, column, serving.column),
            np.where(better, self.quality[:, column], serving.quality),
            np.where(better, self.cost[:, column], serving.cost),
        )

    def serve(self, columns: Sequence[int]) -> Serving:
        """Which of `columns` serves each query."""
        serving = self.nobody()
        for column in columns:
            serving = self.with_model(serving, column)
        return serving

    def of(self, serving: Serving, rows: np.ndarray | None = None) -> float:
        """Mean quality at the budget; -inf where even the cheapest choice costs more.

        Args:
            rows: the queries that count (indices, repeats allowed); all when None.
        """
        quality = serving.quality if rows is None else serving.quality[:, rows]
        if self.budget is None:
            return float(quality[0].mean())
        cost = serving.cost if rows is None else serving.cost[:, rows]
        value = quality_at(
            cost.mean(axis=1)[None], quality.mean(axis=1)[None], np.array([self.budget])
        )[0]
        return float(value) if np.isfinite(value) else -np.inf

    def on_draws(self, serving: Serving, draws: Resample) -> FloatArray:
        """`[B]` the same on every draw; NaN where a draw cannot keep the budget."""
        quality = draws.mean(serving.quality.T)
        if self.budget is None:
            return quality[:, 0]
        cost = draws.mean(serving.cost.T)
        return quality_at(cost, quality, np.full(len(cost), self.budget))

    def restricted(self, rows: np.ndarray) -> Self:
        """The same on some of the queries."""
        part = object.__new__(type(self))
        part.quality, part.cost = self.quality[rows], self.cost[rows]
        part.budget, part.score = self.budget, self.score[:, rows]
        return part


def greedy(value: PoolValue, size: int) -> Iterator[tuple[int, Serving]]:
    """Forward selection: the model that adds most, one after the other, and who then serves.

    While no model alone keeps the budget, the one of least mean cost comes first.
    """
    left = list(range(value.n_models))
    serving = value.nobody()
    for _ in range(min(size, value.n_models)):
        tried = {m: value.with_model(serving, m) for m in left}
        worth = {m: value.of(s) for m, s in tried.items()}
        # Equal worth (and all out of budget) is decided for the cheaper model.
        best = min(left, key=lambda m: (-worth[m], float(value.cost[:, m].mean()), m))
        serving = tried[best]
        left.remove(best)
        yield best, serving


def exact(value: PoolValue, size: int) -> tuple[int, ...]:
    """The best subset of exactly `size` models, by trying all of them."""
    best: tuple[float, tuple[int, ...]] = (-np.inf, tuple(range(size)))
    served: list[tuple[int, Serving]] = []
    for subset in combinations(range(value.n_models), size):
        # Subsets come in order, so most of the models of one are those of the one before.
        shared = 0
        while shared < len(served) and served[shared][0] == subset[shared]:
            shared += 1
        del served[shared:]
        for column in subset[shared:]:
            before = served[-1][1] if served else value.nobody()
            served.append((column, value.with_model(before, column)))
        worth = value.of(served[-1][1])
        if worth > best[0]:
            best = (worth, subset)
    return best[1]
