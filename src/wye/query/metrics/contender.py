"""A router as a report sees it: its estimate on the queries compared, and its operating points.

Shape letters: Q queries, M models, L operating points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.query.base import Estimate
from wye.query.cross_fit import decision_times
from wye.query.metrics.comparison import ReportError
from wye.query.metrics.curve import hull
from wye.query.policies.choosing import best_target

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import BoolArray, FloatArray, QueryRouter
    from wye.query.metrics.comparison import Comparison

IntArray = NDArray[np.intp]

POINTS = 96
_WARM_UP = 20


@dataclass(frozen=True)
class Contender:
    """A router's estimate in the columns of the comparison.

    Attributes:
        estimate: of the Q queries and M models compared; a model that the router does not know has
            quality 0, and `known` says so.
        known: `[M]` whether the router knows the model.
        latency: `[N]` seconds from one text to a plan, N timed calls; empty without a router.
    """

    name: str
    estimate: Estimate
    known: BoolArray
    latency: FloatArray

    @property
    def priced(self) -> bool:
        """Whether the router expects a cost of every model that it knows."""
        return bool(np.isfinite(self.estimate.cost[:, self.known]).all())


def contender(
    name: str,
    router: QueryRouter | Estimate,
    data: RoutingData,
    comparison: Comparison,
    *,
    latency_samples: int,
) -> Contender:
    """Ask `router` for its estimate of the queries compared, and time its decisions.

    Raises:
        ReportError: an estimate of another number of queries than the data have, or a router that
            knows none of the models compared.
    """
    latency = np.empty(0)
    if isinstance(router, Estimate):
        if len(router) != len(data):
            raise ReportError(
                f"{name}: the estimate is of {len(router)} queries, {data.name} has {len(data)}"
            )
        estimate, rows = router, comparison.rows
    else:
        texts = data.texts
        asked = [texts[i] for i in comparison.rows]
        estimate, rows = router.estimate(asked), np.arange(len(comparison))
        latency = decision_times(router, asked, samples=latency_samples, warm_up=_WARM_UP)
    known = np.array([m in estimate.models for m in comparison.models])
    if not known.any():
        raise ReportError(
            f"{name} knows the models {list(estimate.models)[:8]}, and none of those compared: "
            f"{list(comparison.models)[:8]}"
        )
    return Contender(name, _aligned(estimate, comparison.models, rows), known, latency)


def operating_points(contender: Contender) -> IntArray:
    """`[Q, L]` the column chosen for each query at each of L cost weights, from 0 to infinity.

    argmax q - w c changes for a query only where w passes a slope of the convex hull of its models;
    the weights are those slopes, or their quantiles where they are many. A router that does not
    know the costs has one point, argmax q.
    """
    estimate = contender.estimate
    quality = np.where(contender.known, estimate.quality, -np.inf)
    if not contender.priced:
        return best_target(quality, estimate.cost)[:, None]
    cost = np.where(contender.known, estimate.cost, np.inf)
    weights = _weights(estimate.quality[:, contender.known], estimate.cost[:, contender.known])
    finite_cost = np.where(contender.known, estimate.cost, 0.0)
    columns = [best_target(quality - w * finite_cost, cost) for w in weights]
    cheapest = np.lexsort((-quality, cost), axis=1)[:, 0]
    return np.stack([*columns, cheapest], axis=1)


def _weights(quality: FloatArray, cost: FloatArray) -> FloatArray:
    vertex_cost, vertex_quality = hull(cost, quality)
    saved, lost = np.diff(vertex_cost, axis=1), np.diff(vertex_quality, axis=1)
    slopes = np.unique((lost / np.where(saved > 0, saved, np.nan))[saved > 0])
    if slopes.size > POINTS - 2:
        slopes = np.unique(np.quantile(slopes, np.linspace(0.0, 1.0, POINTS - 2)))
    # Just past its own trade-off a query moves on to its next cheaper model.
    return np.concatenate(([0.0], slopes * (1.0 + 1e-9)))


def _aligned(estimate: Estimate, models: tuple[str, ...], rows: IntArray) -> Estimate:
    at = {m: k for k, m in enumerate(estimate.models)}
    columns = np.array([at.get(m, -1) for m in models])

    def take(values: FloatArray, missing: float) -> FloatArray:
        return np.where(columns >= 0, values[np.ix_(rows, np.maximum(columns, 0))], missing)

    return Estimate(
        models=models,
        quality=take(estimate.quality, 0.0),
        quality_std=take(estimate.quality_std, 0.0),
        cost=take(estimate.cost, np.nan),
        latency=take(estimate.latency, np.nan),
        novelty=estimate.novelty[rows],
        router_cost=estimate.router_cost,
        router_seconds=estimate.router_seconds,
    )
