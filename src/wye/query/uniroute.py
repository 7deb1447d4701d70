"""UniRoute: a model is its vector of error rates in clusters of queries, a query its membership.

Routes a query to a model, before an answer exists, on its embedding. Source: Jitkrittum et al.,
Universal Model Routing for Efficient LLM Inference, arXiv 2502.08773.

    Psi(m) in [0, 1]^C   error rate of m in each cluster, on whatever queries m has answered
    Phi(q) = softmax(-|e_q - mu_c|^2 / tau)     (soft), or one for the nearest cluster (hard)
    predicted error[q, m] = Phi(q) . Psi(m)

Clusters are learned from texts alone, so a model that nobody had seen needs C numbers and nothing
else changes. The paper routes to argmin error + lambda cost; here the policy makes that trade.
Ours: C = 32, tau = 0.2 between unit vectors, and a cluster's error rate is shrunk towards the
model's own mean by one query, since 200 answers leave only a few to a cluster.

Shape letters: Q queries, M models, C clusters, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import PlacingEstimator, PlacingRouter
from wye.query.learning.named_arrays import KeptArrays


class UniRouteEstimator(KeptArrays, PlacingEstimator):
    """Error rates of the models in clusters that know nothing of any model.

    Args:
        n_clusters: C; fewer where queries are few.
        temperature: tau of the soft membership; 0 for the nearest cluster alone.
        shrinkage: weight of a model's mean in each of its error rates, in queries.
        seed: of k-means.
    """

    kept: ClassVar[tuple[str, ...]] = ("centers", "share", "errors", "errors_std", "mean_std")

    def __init__(
        self,
        *,
        n_clusters: int = 32,
        temperature: float = 0.2,
        shrinkage: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.temperature = temperature
        self.shrinkage = shrinkage
        self.seed = seed

    @property
    def levels(self) -> FloatArray:
        """Expected quality of each model averaged over the training queries, `[M]`."""
        return np.asarray(1.0 - self.share_ @ self.errors_, np.float64)

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Group the queries, then count each model's errors in each group."""
        count = worthwhile_count(self.n_clusters, len(inputs))
        self.centers_ = cluster_centers(inputs.vectors, count, self.seed)
        means = model_means(quality)
        self.mean_std_ = mean_std(quality, means)
        owner = memberships(inputs.vectors, self.centers_, 1)
        self.share_ = owner.mean(axis=0)
        self.errors_, self.errors_std_ = self._error_rates(owner, quality, means)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        member = self.membership(inputs)
        variance = member @ self.errors_std_**2 + self.mean_std_**2
        return 1.0 - member @ self.errors_, np.sqrt(variance)

    def membership(self, inputs: QueryInputs) -> FloatArray:
        """Phi, `[Q, C]`."""
        if self.temperature == 0.0:
            return memberships(inputs.vectors, self.centers_, 1)
        sharpness = 2.0 / self.temperature
        every = len(self.centers_)
        return memberships(inputs.vectors, self.centers_, every, sharpness=sharpness)

    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add a model from its measured quality `[Q]`: its C error rates."""
        owner = memberships(inputs.vectors, self.centers_, 1)
        measured = quality[:, None]
        means = model_means(measured)
        errors, std = self._error_rates(owner, measured, means)
        self.errors_ = np.hstack([self.errors_, errors])
        self.errors_std_ = np.hstack([self.errors_std_, std])
        self.mean_std_ = np.append(self.mean_std_, mean_std(measured, means))
        return self

    def _error_rates(
        self, owner: FloatArray, quality: FloatArray, means: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        table, std = group_table(owner, quality, means, self.shrinkage)
        return 1.0 - table, std


@dataclass(kw_only=True, eq=False, repr=False)
class UniRouteRouter(PlacingRouter):
    """Cluster error rates as the vector of a model; a new model needs nothing else.

    Args:
        n_clusters: clusters; fewer where queries are few.
        temperature: of the soft membership; 0 for the nearest cluster alone.
        shrinkage: weight of a model's mean in each of its error rates, in queries.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "uniroute"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 3

    n_clusters: int = 32
    temperature: float = 0.2
    shrinkage: float = 1.0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.n_clusters < 1 or self.temperature < 0 or self.shrinkage < 0:
            raise RouterError(
                f"n_clusters is {self.n_clusters}, temperature {self.temperature}, shrinkage "
                f"{self.shrinkage}; expected 1 or more, and 0 or more for both others"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "uniroute": UniRouteEstimator(
                n_clusters=self.n_clusters,
                temperature=self.temperature,
                shrinkage=self.shrinkage,
                seed=self.seed,
            )
        }
