"""Cluster: queries are grouped by k-means, and each group ranks the models by what they did there.

Routes a query to a model, before an answer exists, on its embedding. The library's own variant of
Avengers-Pro, Zhang et al., arXiv 2508.12631 (`wye.query.avengers_pro` is the method as published):
accuracies are shrunk, the number of clusters is chosen by cross-validation, and the trade of
accuracy against cost is left to the policy.

    p[c, m] = mean_m + sum_{q in c} (y_qm - mean_m) / (shrinkage + n_cm)
    quality[q, m] = sum_c s_qc p[c, m],  s = softmax(sharpness * similarity) over the nearest

Shape letters: Q queries, M models, C clusters, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import (
    QualityEstimator,
    contrast_error,
    folds,
    mean_std,
    model_means,
)
from wye.query.learning.group_table import GroupJudgement, group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays

COUNTS = (8, 16, 32, 64)
SHRINKAGES = (2.0, 8.0, 32.0)
TUNING_FOLDS = 4


class ClusterEstimator(KeptArrays, QualityEstimator):
    """Rankings of the models in each k-means cluster.

    Args:
        n_clusters: C; chosen by cross-validation when None.
        nearest: clusters that judge one query.
        seed: of k-means and of the folds.
    """

    kept: ClassVar[tuple[str, ...]] = ("centers", "table", "table_std", "mean_std")

    def __init__(self, *, n_clusters: int | None = None, nearest: int = 3, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.nearest = nearest
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Group the queries; choose how many groups and how much each mean is shrunk."""
        means = model_means(quality)
        self.mean_std_ = mean_std(quality, means)
        wanted = COUNTS if self.n_clusters is None else (self.n_clusters,)
        counts = sorted({min(c, len(inputs)) for c in wanted})
        candidates = [cluster_centers(inputs.vectors, c, self.seed) for c in counts]
        errors = {
            (c, shrinkage): self._error(inputs, quality, centers, shrinkage)
            for c, centers in enumerate(candidates)
            for shrinkage in SHRINKAGES
        }
        best, shrinkage = min(errors, key=lambda key: errors[key])
        self.centers_ = candidates[best]
        owner = memberships(inputs.vectors, self.centers_, 1)
        self.table_, self.table_std_ = group_table(owner, quality, means, shrinkage)
        self._derive()
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        return self._judge(memberships(inputs.vectors, self.centers_, self.nearest))

    def _derive(self) -> None:
        self._judge = GroupJudgement.of(self.table_, self.table_std_, self.mean_std_)

    def _error(
        self, inputs: QueryInputs, quality: FloatArray, centers: FloatArray, shrinkage: float
    ) -> float:
        """Out-of-fold error; the clusters themselves never saw an outcome."""
        means = model_means(quality)
        if len(inputs) < TUNING_FOLDS:
            return 0.0
        owner = memberships(inputs.vectors, centers, 1)
        share = memberships(inputs.vectors, centers, self.nearest)
        predicted = np.empty_like(quality)
        for part in folds(len(inputs), TUNING_FOLDS, self.seed):
            seen = quality.copy()
            seen[part] = np.nan
            predicted[part] = share[part] @ group_table(owner, seen, means, shrinkage)[0]
        return contrast_error(quality, predicted, means)


@dataclass(kw_only=True, eq=False, repr=False)
class ClusterRouter(EmbeddedRouter):
    """k-means clusters, each with its own ranking of the models.

    Args:
        n_clusters: how many clusters; chosen by cross-validation when None.
        nearest: how many clusters judge one query.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "cluster"

    n_clusters: int | None = None
    nearest: int = 3

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.nearest < 1 or (self.n_clusters is not None and self.n_clusters < 1):
            raise RouterError(
                f"n_clusters is {self.n_clusters} and nearest {self.nearest}, expected 1 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "cluster": ClusterEstimator(
                n_clusters=self.n_clusters, nearest=self.nearest, seed=self.seed
            )
        }
