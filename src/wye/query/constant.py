"""Constant: every query gets each model's mean. The router that a learned one has to beat.

Routes a query to a model, before an answer exists, on nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import QueryInputs


class ConstantEstimator(QualityEstimator):
    """Each model's mean quality, adjusted for which queries it answered (`model_means`)."""

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

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The means and their uncertainty."""
        return {"means": self.means_, "std": self.std_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.means_, self.std_ = arrays["means"], arrays["std"]


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
