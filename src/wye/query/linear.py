"""Linear: ridge regression of quality on the embedding and cheap text features.

Routes a query to a model, before an answer exists, on its embedding and text features. Source:
ridge and logistic routers as in RouterBench, arXiv 2403.12031.

    quality[q, m] = mean_m + c(x_q) + d_m(x_q)

c, how hard the query is for all models, and d, what sets the models apart, are regressed apart,
each with its own penalty by leave-one-out error: differences are far fainter than difficulty, and
one penalty for both would overfit them.

Shape letters: Q queries, M models, D columns of `QueryInputs.columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, common_part, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.ridge import Design, Ridge, fit_ridge


class LinearEstimator(KeptArrays, QualityEstimator):
    """Two ridge regressions: difficulty of the query, and differences between the models."""

    kept: ClassVar[tuple[str, ...]] = (
        "coef",
        "intercept",
        "axes",
        "center",
        "reach",
        "noise",
        "mean_std",
        "penalties",
    )

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Fit both regressions, penalties by leave-one-out."""
        return self.fit_design(inputs.design, quality)

    def fit_design(self, design: Design, quality: FloatArray) -> Self:
        """Fit both regressions on another design."""
        means = model_means(quality)
        common = common_part(quality, means)
        difficulty = fit_ridge(design, common[:, None])
        contrast = fit_ridge(design, quality - means - common[:, None])
        self.coef_ = (difficulty.coef + contrast.coef).astype(np.float32)
        self.intercept_ = means + difficulty.intercept + contrast.intercept
        self.axes_ = difficulty.axes.astype(np.float32)
        self.center_ = difficulty.center.astype(np.float32)
        self.reach_ = np.stack(
            [1.0 / (difficulty.values + r.penalty) for r in (difficulty, contrast)], axis=1
        )
        self.noise_ = np.stack(
            [np.broadcast_to(difficulty.noise, means.shape), _rarity(contrast) * contrast.noise]
        )
        self.mean_std_ = mean_std(quality, means)
        self.penalties_ = np.array([difficulty.penalty, contrast.penalty])
        self._derive()
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        return self.predict_columns(inputs.columns)

    def predict_columns(self, columns: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """The same on columns `[Q, D]` of another design."""
        mean, variance = self.moments(columns)
        return mean, np.sqrt(variance)

    def moments(self, columns: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """The same, with the square of the standard uncertainty in its place."""
        along = (columns - self._middle) @ self.axes_
        # NumPy adds numbers of one type several times as fast as it adds those of two.
        mean = (columns @ self.coef_).astype(np.float64) + self._level
        return mean, ((along * along) @ self._spread).astype(np.float64) + self._least

    @classmethod
    def stacked(cls, several: Sequence[LinearEstimator]) -> LinearEstimator:
        """N fitted estimators as one, whose `moments` take columns `[N, Q, D]` to `[N, Q, M]`."""
        states = [estimator.get_state() for estimator in several]
        whole = cls()
        whole.set_state({name: _stack([state[name] for state in states]) for name in cls.kept})
        return whole

    def _derive(self) -> None:
        # [D, M] variance that one unit along an axis adds: the leverage of difficulty and that of
        # contrast, which share their axes, each times its noise.
        self._spread = (self.reach_ @ self.noise_**2).astype(np.float32)
        self._least = np.atleast_2d(self.mean_std_**2)
        self._level, self._middle = np.atleast_2d(self.intercept_, self.center_)


def _stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of one shape stacked in front; vectors as rows, so that they spread over queries."""
    stacked = np.stack(arrays)
    return stacked[:, None] if stacked.ndim == 2 else stacked


def _rarity(ridge: Ridge) -> FloatArray:
    """How much wider the uncertainty of an output is for being known on fewer rows, `[M]`."""
    return np.asarray(np.sqrt(ridge.counts.max() / np.maximum(ridge.counts, 1.0)), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class LinearRouter(EmbeddedRouter):
    """Ridge regression on the embedding and text features.

    Args:
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "linear"

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"linear": LinearEstimator()}
