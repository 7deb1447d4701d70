"""Avengers-Pro: clusters of queries rank the models by performance and efficiency in one score.

Routes a query to a model, before an answer exists, on its embedding. Source: Zhang et al., Beyond
GPT-5: Making LLMs Cheaper and Better via Performance-Efficiency Optimized Routing, arXiv
2508.12631.

    p~[c, m] = (p[c, m] - min_m p[c]) / (max_m p[c] - min_m p[c])       p: accuracy in the cluster
    q~[c, m] = q[c, m] / max_m q[c]                                     q: mean cost in the cluster
    x[c, m] = w_p p~[c, m] + w_c (1 - q~[c, m]),   w_p + w_c = 1
    score[q, m] = sum_c s_qc x[c, m],   s_q = softmax(10 cosine) over the 1 to 4 nearest clusters

and the model of highest score answers. The score has no unit: it becomes a quality by one logistic
map for all models, so that the policy `quality` chooses as the paper does. With w_c > 0 cost is in
the score already, and a policy that weighs cost would count it twice; the trade-off that a policy
makes belongs to `cluster`, the library's own router of this kind, whose estimates leave it open.

Ours: 60 clusters or fewer, ten training queries to each; where all models of a cluster are alike,
p~ is 0 for all; the cost of a model that a cluster does not know is its mean over all queries.
w_p = 1, performance first, unless the user says otherwise.

Shape letters: Q queries, M models, C clusters, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.score_link import ScoreLink

MOST_NEAREST = 4


class AvengersProEstimator(KeptArrays, QualityEstimator):
    """Normalised performance and efficiency of each model in each k-means cluster.

    Args:
        performance_weight: w_p, 0 to 1; w_c is the rest.
        n_clusters: C; fewer where queries are few.
        nearest: clusters that judge one query, 1 to 4.
        seed: of k-means.
    """

    kept: ClassVar[tuple[str, ...]] = ("centers", "score", "accuracy_std", "mean_std")

    def __init__(
        self,
        *,
        performance_weight: float = 1.0,
        n_clusters: int = 60,
        nearest: int = 1,
        seed: int = 0,
    ) -> None:
        self.performance_weight = performance_weight
        self.n_clusters = n_clusters
        self.nearest = nearest
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Group the queries, score the models in each group, fit the map to quality.

        Raises:
            RouterError: costs count and the log does not know them.
        """
        count = worthwhile_count(self.n_clusters, len(inputs))
        self.centers_ = cluster_centers(inputs.vectors, count, self.seed)
        means = model_means(quality)
        owner = memberships(inputs.vectors, self.centers_, 1)
        accuracy, self.accuracy_std_ = group_table(owner, quality, means, 0.0)
        self.score_ = self.performance_weight * normalised_performance(accuracy)
        cost_weight = 1.0 - self.performance_weight
        if cost_weight > 0.0:
            cost = self._cost(owner, inputs)
            self.score_ = self.score_ + cost_weight * (1.0 - normalised_cost(cost))
        self.mean_std_ = mean_std(quality, means)
        self.link_ = ScoreLink.fit(self.scores(inputs), quality)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality by the score, and its standard uncertainty, each `[Q, M]`."""
        share = memberships(inputs.vectors, self.centers_, self.nearest)
        variance = share @ self.accuracy_std_**2 + self.mean_std_**2
        return self.link_.apply(share @ self.score_), np.sqrt(variance)

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """The score of the paper, 0 to 1, `[Q, M]`."""
        share = memberships(inputs.vectors, self.centers_, self.nearest)
        return np.asarray(share @ self.score_, np.float64)

    def _cost(self, owner: FloatArray, inputs: QueryInputs) -> FloatArray:
        logged = inputs.logged
        if logged is None:
            raise RouterError("performance_weight is below 1, so costs count; the inputs have none")
        known = np.isfinite(logged.cost)
        missing = [m for m, column in zip(logged.names, known.T, strict=True) if not column.any()]
        if missing:
            raise RouterError(
                f"performance_weight is {self.performance_weight}, so costs count, but the data "
                f"has no cost of {missing}; give costs or performance_weight=1"
            )
        means = np.where(known, logged.cost, 0.0).sum(axis=0) / known.sum(axis=0)
        return group_table(owner, logged.cost, means, 0.0)[0]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Centres, scores, uncertainties, and the map to quality."""
        return super().get_state() | self.link_.arrays()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.link_ = ScoreLink.from_arrays(arrays)


def normalised_performance(accuracy: FloatArray) -> FloatArray:
    """p~, `[C, M]`: 0 for the worst model of a cluster, 1 for the best, 0 for all if alike.

    Example:
        >>> normalised_performance(np.array([[0.2, 0.6, 0.4], [0.5, 0.5, 0.5]])).round(2).tolist()
        [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    """
    least, most = accuracy.min(axis=1, keepdims=True), accuracy.max(axis=1, keepdims=True)
    span = most - least
    return np.asarray(
        np.divide(accuracy - least, span, out=np.zeros_like(accuracy), where=span > 0), np.float64
    )


def normalised_cost(cost: FloatArray) -> FloatArray:
    """q~, `[C, M]`: the share of the dearest model's cost, 0 for all in a cluster without cost.

    Example:
        >>> normalised_cost(np.array([[1.0, 4.0]])).tolist()
        [[0.25, 1.0]]
    """
    most = np.broadcast_to(cost.max(axis=1, keepdims=True), cost.shape)
    return np.asarray(np.divide(cost, most, out=np.zeros_like(cost), where=most > 0), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class AvengersProRouter(EmbeddedRouter):
    """Clusters that rank the models by performance and efficiency.

    Args:
        performance_weight: w_p, 0 (the cheapest) to 1 (the best); efficiency weighs the rest.
        n_clusters: clusters; fewer where queries are few.
        nearest: clusters that judge one query, 1 to 4.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "avengers-pro"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 3

    performance_weight: float = 1.0
    n_clusters: int = 60
    nearest: int = 1

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0.0 <= self.performance_weight <= 1.0:
            raise RouterError(f"performance_weight is {self.performance_weight}, expected 0 to 1")
        if self.n_clusters < 1 or not 1 <= self.nearest <= MOST_NEAREST:
            raise RouterError(
                f"n_clusters is {self.n_clusters} and nearest {self.nearest}; expected 1 or more, "
                f"and 1 to {MOST_NEAREST}"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "avengers-pro": AvengersProEstimator(
                performance_weight=self.performance_weight,
                n_clusters=self.n_clusters,
                nearest=self.nearest,
                seed=self.seed,
            )
        }
