"""Figures of an answer on one scale: features of its text, and what was observed of it.

Shape letters: N answers, X observed figures, Z figures in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.features import text_features
from wye.query.learning.named_arrays import KeptArrays

LEAST_SPREAD = 1e-3
FARTHEST = 4.0


def figures_of(answers: Sequence[str], observed: FloatArray | None = None) -> FloatArray:
    """`[N, Z]` text features of N answers, and beside them what was observed, `[N, X]`.

    Raises:
        RouterError: another number of rows, or a figure that is not finite.
    """
    features = np.asarray(text_features(answers), np.float64)
    if observed is None:
        return features
    seen = np.asarray(observed, np.float64)
    if seen.ndim != 2 or len(seen) != len(answers) or not np.isfinite(seen).all():
        raise RouterError(
            f"observed has shape {seen.shape}, expected finite figures [{len(answers)}, X]"
        )
    return np.concatenate([features, seen], axis=1)


class FigureScale(KeptArrays):
    """Puts figures on the scale of those that were learned from: mean 0, deviation 1, no outliers.

    Attributes:
        centre_, spread_: `[Z]`.
    """

    kept: ClassVar[tuple[str, ...]] = ("centre", "spread")

    def fit(self, figures: FloatArray) -> Self:
        """Learn from figures `[N, Z]`."""
        self.centre_ = figures.mean(axis=0)
        self.spread_ = np.maximum(figures.std(axis=0), LEAST_SPREAD)
        return self

    def apply(self, figures: FloatArray) -> FloatArray:
        """Figures `[N, Z]` on that scale.

        Raises:
            RouterError: other figures than those that were learned from.
        """
        extra = figures.shape[1] - len(self.centre_)
        if extra:
            raise RouterError(
                f"observed has {extra:+d} columns against training; give the same figures"
            )
        standard = np.clip((figures - self.centre_) / self.spread_, -FARTHEST, FARTHEST)
        return np.asarray(standard, np.float64)
