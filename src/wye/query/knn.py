"""kNN: a model is expected to do as it did on the nearest known queries, shrunk to its mean.

Routes a query to a model, before an answer exists, on its embedding. Source: Shnitzer et al., Large
Language Model Routing with Benchmark Datasets, arXiv 2309.15789; kNN routing in RouterBench, arXiv
2403.12031. Shrinkage is needed: a small k alone is known to lose to the best single model.

    quality[q, m] = mean_m + sum_k w_qk (y_km - mean_m) / (shrinkage + sum_k w_qk)
    w_qk = (1 + similarity_qk)^sharpness / (1 + similarity_q1)^sharpness

over the k nearest queries whose outcome with m is known. k, shrinkage and sharpness come from
leave-one-out error of the differences between models.

Shape letters: Q queries, M models, K neighbours, R references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, contrast_error, mean_std, model_means
from wye.query.learning.inputs import CELLS_AT_ONCE, Neighbours, QueryInputs

KS = (8, 16, 32, 64, 128, 256)
SHRINKAGES = (1.0, 4.0, 16.0, 64.0)
SHARPNESSES = (0.0, 8.0, 24.0)
TUNING_QUERIES = 2000


class KNNEstimator(QualityEstimator):
    """Mean of the nearest outcomes, shrunk to each model's mean.

    A parameter that is None is chosen by leave-one-out error.
    """

    def __init__(
        self,
        *,
        k: int | None = None,
        shrinkage: float | None = None,
        sharpness: float | None = None,
        seed: int = 0,
    ) -> None:
        self.k = k
        self.shrinkage = shrinkage
        self.sharpness = sharpness
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Keep the outcomes of the references, choose k, shrinkage and sharpness."""
        self.means_ = model_means(quality)
        self.mean_std_ = mean_std(quality, self.means_)
        rows = np.flatnonzero(inputs.reference >= 0)
        outcomes = np.full((inputs.n_references, quality.shape[1]), np.nan)
        outcomes[inputs.reference[rows]] = quality[rows]
        self.known_ = np.isfinite(outcomes).astype(np.float32)
        self.excess_ = np.where(self.known_ > 0, outcomes - self.means_, 0.0).astype(np.float32)
        self.k_, self.shrinkage_, self.sharpness_ = self._choose(inputs, quality)
        self._derive()
        return self

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k_

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        found = inputs.neighbours
        k = min(self.k_, found.index.shape[1])
        weights = _weights(found.similarity[:, :k], self.sharpness_)
        n_queries, n_models = len(inputs), self.means_.size
        sums = np.empty((n_queries, 2 * n_models), np.float64)
        step = max(1, CELLS_AT_ONCE // max(1, k * 2 * n_models))
        for start in range(0, n_queries, step):
            part = slice(start, start + step)
            near = self._outcomes.take(found.index[part, :k], axis=0)
            sums[part] = (weights[part, None, :] @ near)[:, 0]
        weight = sums[:, n_models:] + self.shrinkage_
        mean = sums[:, :n_models] / weight + self.means_[None]
        limited = np.minimum(np.maximum(mean, 0.01), 0.99)
        return mean, np.sqrt(limited * (1 - limited) / (1.0 + weight) + self._least)

    def _derive(self) -> None:
        # [R, 2M] excess and whether it is known, side by side: one read for each neighbour.
        self._outcomes = np.hstack([self.excess_, self.known_])
        self._least = self.mean_std_[None] ** 2

    def _choose(self, inputs: QueryInputs, quality: FloatArray) -> tuple[int, float, float]:
        ks = KS if self.k is None else (self.k,)
        shrinkages = SHRINKAGES if self.shrinkage is None else (self.shrinkage,)
        sharpnesses = SHARPNESSES if self.sharpness is None else (self.sharpness,)
        reachable = inputs.neighbours.index.shape[1]
        if reachable == 0 or len(ks) * len(shrinkages) * len(sharpnesses) == 1:
            return ks[0], shrinkages[0], sharpnesses[0]
        ks = tuple(sorted({min(k, reachable) for k in ks}))
        rows = np.random.default_rng(self.seed).permutation(len(inputs))[:TUNING_QUERIES]
        rows.sort()
        found, truth = inputs.neighbours, quality[rows]
        errors: dict[tuple[int, float, float], float] = {}
        for sharpness in sharpnesses:
            sums = self._sums(Neighbours(found.index[rows], found.similarity[rows]), ks, sharpness)
            for k, (excess, weight) in zip(ks, sums, strict=True):
                for shrinkage in shrinkages:
                    mean = self.means_ + excess / (shrinkage + weight)
                    errors[k, shrinkage, sharpness] = contrast_error(truth, mean, self.means_)
        return min(errors, key=lambda key: errors[key])

    def _sums(
        self, found: Neighbours, ks: tuple[int, ...], sharpness: float
    ) -> list[tuple[FloatArray, FloatArray]]:
        """Weighted sums of excess and of weight over the first k neighbours, for each k."""
        weights = _weights(found.similarity, sharpness)
        shape = (found.index.shape[0], self.means_.size)
        excess, weight = np.zeros(shape), np.zeros(shape)
        sums, before = [], 0
        for k in ks:
            w = weights[:, None, before:k]
            step = max(1, CELLS_AT_ONCE // max(1, (k - before) * shape[1]))
            for start in range(0, shape[0], step):
                part = slice(start, start + step)
                index = found.index[part, before:k]
                excess[part] += (w[part] @ self.excess_[index])[:, 0]
                weight[part] += (w[part] @ self.known_[index])[:, 0]
            sums.append((excess.copy(), weight.copy()))
            before = k
        return sums

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Outcomes of the references and the chosen parameters."""
        return {
            "means": self.means_,
            "mean_std": self.mean_std_,
            "known": self.known_,
            "excess": self.excess_,
            "chosen": np.array([self.k_, self.shrinkage_, self.sharpness_], np.float64),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.means_, self.mean_std_ = arrays["means"], arrays["mean_std"]
        self.known_, self.excess_ = arrays["known"], arrays["excess"]
        k, self.shrinkage_, self.sharpness_ = (float(v) for v in arrays["chosen"])
        self.k_ = int(k)
        self._derive()


def _weights(similarity: NDArray[np.float32], sharpness: float) -> NDArray[np.float32]:
    if not similarity.size:
        return similarity
    nearness = np.maximum(1.0 + similarity, 1e-6)
    return np.asarray((nearness / nearness[:, :1]) ** np.float32(sharpness), np.float32)


@dataclass(kw_only=True, eq=False, repr=False)
class KNNRouter(EmbeddedRouter):
    """kNN with shrinkage towards each model's mean.

    Args:
        k: neighbours; chosen by leave-one-out when None.
        shrinkage: weight of the model's mean, in neighbours; chosen when None.
        sharpness: how much nearer neighbours count more, 0 for not at all; chosen when None.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "knn"

    k: int | None = None
    shrinkage: float | None = None
    sharpness: float | None = None

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "knn": KNNEstimator(
                k=self.k, shrinkage=self.shrinkage, sharpness=self.sharpness, seed=self.seed
            )
        }
