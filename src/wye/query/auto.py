"""Auto: a stack of the other routers, weighed by what they got right out of fold. The default.

Routes a query to a model, before an answer exists, on its embedding and text features. Source:
stacked regression, Breiman, Machine Learning 24, 1996 (see `wye.query.calibration`).
"""

from __future__ import annotations

from typing import Any

from wye.query.embedded import EmbeddedRouter
from wye.query.estimator import QualityEstimator
from wye.query.knn import KNNEstimator
from wye.query.linear import LinearEstimator


class AutoRouter(EmbeddedRouter):
    """kNN and ridge regression, each with the weight that it earned out of fold.

    Args:
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "auto"

    def __init__(
        self,
        *,
        embedder: Any = "static",
        calibration: str = "platt",
        max_references: int = 8192,
        seed: int = 0,
    ) -> None:
        super().__init__(
            embedder=embedder, calibration=calibration, max_references=max_references, seed=seed
        )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"knn": KNNEstimator(seed=self.seed), "linear": LinearEstimator()}
