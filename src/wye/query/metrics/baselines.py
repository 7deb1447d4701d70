"""What doing without a router gives: single models, their cheapest mix, and two upper bounds.

Shape letters: Q queries, M models, B draws (row 0: the data as they are).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.query.metrics.curve import aiq, hull, quality_at

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.comparison import Comparison
    from wye.query.metrics.resample import Resample

IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Baselines:
    """Quality and cost of everything that is no router, on every draw.

    Attributes:
        quality: `[B, M]` of each model.
        cost: `[B, M]` USD per query, or None.
        best: column of the best single model: highest mean quality, ties to the cheaper.
        mix: columns of the cheapest mix's vertices, cheapest first; empty without costs.
        per_dataset: best column by dataset, judged on these very queries.
        per_dataset_quality, oracle_quality: `[B]`.
        per_dataset_cost, oracle_cost: `[B]`, or None.
    """

    quality: FloatArray
    cost: FloatArray | None
    best: int
    mix: IntArray
    per_dataset: dict[str, int]
    per_dataset_quality: FloatArray
    per_dataset_cost: FloatArray | None
    oracle_quality: FloatArray
    oracle_cost: FloatArray | None

    @property
    def best_quality(self) -> FloatArray:
        """`[B]` of the best single model."""
        return self.quality[:, self.best]

    @property
    def best_cost(self) -> FloatArray | None:
        """`[B]` of the best single model."""
        return None if self.cost is None else self.cost[:, self.best]

    def mix_quality_at(self, budget: FloatArray) -> FloatArray:
        """`[B]` quality of the cheapest mix of single models at mean cost `budget` `[B]`.

        The zero router of RouterBench (arXiv 2403.12031, section 3.2): a coin between the two
        models of the lower convex hull around the budget. Which models those are is read off the
        data as they are. NaN below the cheapest of them.
        """
        if self.cost is None:
            return np.full(budget.shape, np.nan)
        dear_first = self.mix[::-1]
        return quality_at(self.cost[:, dear_first], self.quality[:, dear_first], budget)

    def mix_aiq(self) -> FloatArray:
        """`[B]` AIQ of the cheapest mix, between the cheapest and the dearest single model."""
        if self.cost is None:
            return np.full(self.quality.shape[0], np.nan)
        low, high = self.cost.min(axis=1), self.cost.max(axis=1)
        return aiq(self.cost, self.quality, low, high)


def baselines(comparison: Comparison, draws: Resample) -> Baselines:
    """All baselines of a comparison.

    The oracle takes for each query the best answer, and among equal ones the cheapest: it knows the
    outcomes, and with many models it is lucky too, so it is a bound and no target. Best per dataset
    knows each query's dataset, and picks on the queries it is judged on.
    """
    quality, cost = comparison.quality, comparison.cost
    tie = np.zeros_like(quality) if cost is None else cost
    mean_quality = draws.mean(quality)
    mean_cost = None if cost is None else draws.mean(cost)
    best = _best(mean_quality[0], tie.mean(axis=0))
    chosen: IntArray = np.empty(len(comparison), dtype=np.intp)
    per_dataset: dict[str, int] = {}
    for name in sorted(set(comparison.datasets.tolist())):
        rows = comparison.datasets == name
        per_dataset[name] = _best(quality[rows].mean(axis=0), tie[rows].mean(axis=0))
        chosen[rows] = per_dataset[name]
    oracle = np.where(quality == quality.max(axis=1, keepdims=True), tie, np.inf).argmin(axis=1)

    def taken(values: FloatArray, column: IntArray) -> FloatArray:
        return draws.mean(np.take_along_axis(values, column[:, None], axis=1)[:, 0])

    return Baselines(
        quality=mean_quality,
        cost=mean_cost,
        best=best,
        mix=_vertices(mean_quality[0], None if mean_cost is None else mean_cost[0]),
        per_dataset=per_dataset,
        per_dataset_quality=taken(quality, chosen),
        per_dataset_cost=None if cost is None else taken(cost, chosen),
        oracle_quality=taken(quality, oracle),
        oracle_cost=None if cost is None else taken(cost, oracle),
    )


def _best(quality: FloatArray, cost: FloatArray) -> int:
    return int(np.lexsort((cost, -quality))[0])


def _vertices(quality: FloatArray, cost: FloatArray | None) -> IntArray:
    if cost is None:
        return np.empty(0, dtype=np.intp)
    hull_cost, hull_quality = hull(cost[None], quality[None])
    on = [
        int(np.flatnonzero((cost == c) & (quality == q))[0])
        for c, q in zip(hull_cost[0], hull_quality[0], strict=True)
    ]
    return np.array(list(dict.fromkeys(on)), dtype=np.intp)
