"""From a score without a unit to an expected quality: one increasing logistic map for all models.

Methods that rank (cosine similarities, ratings, margins) say nothing in the unit of quality. The
map is Platt's (1999), fitted on training scores and shared by all models, so their order stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray


@dataclass(frozen=True)
class ScoreLink:
    """quality = sigmoid(slope * score + intercept), slope > 0.

    Example:
        >>> link = ScoreLink.fit(np.array([[-1.0, 1.0], [-2.0, 2.0]]), np.array([[0.0, 1.0]] * 2))
        >>> bool((np.diff(link.apply(np.array([-1.0, 0.0, 1.0]))) > 0).all())
        True
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, scores: FloatArray, quality: FloatArray) -> ScoreLink:
        """The map that best turns `scores` into `quality`, both `[Q, M]`, NaN where unknown.

        Where scores say nothing of quality the slope is tiny but positive: the order stays.
        """
        from sklearn.linear_model import LogisticRegression

        known = np.isfinite(quality)
        x, y = scores[known], quality[known]
        centre, spread = float(x.mean()), max(float(x.std()), 1e-9)
        if not 0.0 < y.mean() < 1.0:
            level = float(np.clip(y.mean(), 0.01, 0.99))
            slope, shift = 1e-3, float(np.log(level / (1.0 - level)))
        else:
            column = np.tile((x - centre) / spread, 2)[:, None]
            label, weight = np.repeat([1, 0], x.size), np.concatenate([y, 1.0 - y])
            kept = weight > 0
            fitted = LogisticRegression(C=1e3).fit(column[kept], label[kept], weight[kept])
            slope, shift = max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])
        return cls(slope / spread, shift - slope * centre / spread)

    def apply(self, scores: FloatArray) -> FloatArray:
        """Expected quality, inside (0, 1), of any shape."""
        z = np.clip(self.slope * scores + self.intercept, -30.0, 30.0)
        return np.asarray(1.0 / (1.0 + np.exp(-z)), np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The map as an array, to be stored beside what gives the scores."""
        return {"link": np.array([self.slope, self.intercept])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ScoreLink:
        """What `arrays` returned."""
        slope, intercept = arrays["link"].tolist()
        return cls(slope, intercept)
