"""Constant: every query gets each model's mean. The router that a learned one has to beat.

Routes a query to a model, before an answer exists, on nothing at all.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from wye.query.base import FloatArray
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays


class ConstantEstimator(KeptArrays, QualityEstimator):
    """Each model's mean quality, adjusted for which queries it answered (`model_means`)."""

    kept: ClassVar[tuple[str, ...]] = ("means", "std")

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn the means."""
        del inputs
        self.means_ = model_means(quality)
        self.std_ = mean_std(quality, self.means_)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """The means and their standard uncertainty, each `[Q, M]`."""
        shape = (len(inputs), self.means_.size)
        return np.broadcast_to(self.means_, shape).copy(), np.broadcast_to(self.std_, shape).copy()


class ConstantRouter(EmbeddedRouter):
    """Every query gets each model's mean quality; cost, latency and novelty still read the text.

    Args:
        embedder, max_references, seed: see `EmbeddedRouter`.
    """

    name = "constant"

    def __init__(
        self, *, embedder: Any = "static", max_references: int = 8192, seed: int = 0
    ) -> None:
        super().__init__(
            embedder=embedder, calibration="none", max_references=max_references, seed=seed
        )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"constant": ConstantEstimator()}
