"""What a regression needs of outcomes, as sums: blocks of a log add up in any order.

A log that fits no machine is read in blocks. Each block leaves sums of products, which add up to
those of the whole; the regression is solved from the sums alone, and so is the error of each
penalty on queries that it has not seen: the sums are kept by fold, a query's fold being its hash.

Shape letters: Q rows (one outcome each), M models, D columns, F features, K folds, R references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.features import text_features
from wye.query.learning.inputs import FEATURE_SCALE
from wye.query.learning.seen import question_hashes

FOLDS = 5
# A feature that almost never varies would explode on the first query that has it.
LEAST_SPREAD = 0.05
_FARTHEST = 4.0


@dataclass(frozen=True)
class Rows:
    """Q outcomes.

    Attributes:
        texts: of the queries; one that several models answered comes several times.
        model: `[Q]` column of who answered.
        quality, cost, latency: `[Q]` 0 to 1, USD, seconds; NaN unknown.
    """

    texts: Sequence[str]
    model: NDArray[np.intp]
    quality: FloatArray
    cost: FloatArray
    latency: FloatArray


class _Added:
    """Adds up field by field."""

    def __add__(self, other: Self) -> Self:
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**both)


@dataclass(frozen=True)
class FeatureSums(_Added):
    """Sums of text features, for their mean and spread.

    Attributes:
        count: Q.
        total, squares: `[F]`.
    """

    count: int
    total: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, texts: Sequence[str]) -> FeatureSums:
        """Those of some texts."""
        raw = np.asarray(text_features(texts), np.float64)
        return cls(len(raw), raw.sum(axis=0), (raw**2).sum(axis=0))

    def scale(self) -> FeatureScale:
        """Mean and spread."""
        mean = self.total / max(1, self.count)
        variance = np.maximum(self.squares / max(1, self.count) - mean**2, 0.0)
        return FeatureScale(mean, np.maximum(np.sqrt(variance), LEAST_SPREAD))


@dataclass(frozen=True)
class FeatureScale:
    """How features are put beside an embedding."""

    mean: FloatArray
    spread: FloatArray

    def columns(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> FloatArray:
        """`[Q, D]` what is regressed on: the embedding and the scaled features side by side."""
        standard = (np.asarray(text_features(texts), np.float64) - self.mean) / self.spread
        limited = np.clip(standard, -_FARTHEST, _FARTHEST) * FEATURE_SCALE
        return np.concatenate([vectors.astype(np.float64), limited], axis=1)


@dataclass(frozen=True)
class RowSums(_Added):
    """Sums over outcomes, by fold and model.

    Attributes:
        gram: `[K, M, D + 1, D + 1]` of products of a one and the columns, where quality is known.
        moment: `[K, M, D + 1]` of their products with quality.
        power: `[K, M]` of squared quality.
        lines: `[2, M, 5]` for cost and latency against the characters c of a prompt, where known:
            counts, c, c squared, the amount, the amount times c.
    """

    gram: FloatArray
    moment: FloatArray
    power: FloatArray
    lines: FloatArray

    @classmethod
    def of(cls, rows: Rows, columns: FloatArray, n_models: int) -> RowSums:
        """Those of some rows, whose columns are `[Q, D]`."""
        width = columns.shape[1] + 1
        gram = np.zeros((FOLDS, n_models, width, width))
        moment, power = np.zeros((FOLDS, n_models, width)), np.zeros((FOLDS, n_models))
        design = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
        fold = (question_hashes(rows.texts) % np.uint64(FOLDS)).astype(np.intp)
        known = np.isfinite(rows.quality)
        cell = np.where(known, fold * n_models + rows.model, -1)
        for found in np.unique(cell[known]):
            k, m = divmod(int(found), n_models)
            chosen = cell == found
            part, quality = design[chosen], rows.quality[chosen]
            gram[k, m] = part.T @ part
            moment[k, m] = part.T @ quality
            power[k, m] = quality @ quality
        chars = np.array([len(text) for text in rows.texts], np.float64)
        amounts = (rows.cost, rows.latency)
        lines = np.stack([_line(chars, amount, rows.model, n_models) for amount in amounts])
        return cls(gram, moment, power, lines)


def _line(
    chars: FloatArray, amount: FloatArray, model: NDArray[np.intp], n_models: int
) -> FloatArray:
    known = np.isfinite(amount)
    c, y = chars[known], amount[known]
    parts = (np.ones_like(c), c, c * c, y, c * y)
    sums = [np.bincount(model[known], part, minlength=n_models) for part in parts]
    return np.stack(sums, axis=1)


@dataclass(frozen=True)
class Sketch:
    """A uniform sample of the distinct questions: those with the lowest hashes, whatever the order.

    Attributes:
        most: R at most.
        hashes: `[R]` sorted.
        vectors: `[R, D]`.
    """

    most: int
    hashes: NDArray[np.uint64]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, texts: Sequence[str], vectors: NDArray[np.float32], most: int) -> Sketch:
        """That of some texts."""
        return cls(most, *_lowest(question_hashes(texts), vectors, most))

    def __add__(self, other: Sketch) -> Sketch:
        hashes = np.concatenate([self.hashes, other.hashes])
        vectors = np.concatenate([self.vectors, other.vectors])
        return Sketch(self.most, *_lowest(hashes, vectors, self.most))


def _lowest(
    hashes: NDArray[np.uint64], vectors: NDArray[np.float32], most: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    kept, rows = np.unique(hashes, return_index=True)
    return kept[:most], vectors[rows[:most]]


@dataclass(frozen=True)
class Solved:
    """Ridge regressions of M models, solved from sums.

    Attributes:
        coef: `[D, M]`.
        intercept: `[M]`.
        noise: `[M]` root mean squared error on folds that were not learned from.
        center: `[M, D]`; shapes: `[M, D, D]`: the variance of the fitted mean at x is noise^2
            (1 / count + |(x - center) @ shape|^2).
        counts: `[M]`.
        penalty: with the least error on folds that were not learned from.
    """

    coef: FloatArray
    intercept: FloatArray
    noise: FloatArray
    center: FloatArray
    shapes: NDArray[np.float32]
    counts: FloatArray
    penalty: float


def solve(sums: RowSums, penalties: Sequence[float]) -> Solved:
    """Fit every model with the penalty that predicts unseen folds best, all models together."""
    gram, moment = sums.gram.sum(axis=0), sums.moment.sum(axis=0)
    n_models, width = moment.shape
    errors = np.zeros((len(penalties), n_models))
    for k in range(len(sums.gram)):
        for m in range(n_models):
            if sums.gram[k, m, 0, 0] > 0:
                rest = _Centred(gram[m] - sums.gram[k, m], moment[m] - sums.moment[k, m])
                beta = rest.solutions(penalties)
                fitted = np.einsum("pd,de,pe->p", beta, sums.gram[k, m], beta)
                errors[:, m] += sums.power[k, m] - 2 * beta @ sums.moment[k, m] + fitted
    errors = np.maximum(errors, 0.0)
    best = int(np.argmin(errors.sum(axis=1)))
    counts = gram[:, 0, 0]
    found: dict[str, Any] = {"coef": np.zeros((width - 1, n_models)), "intercept": counts * 0.0}
    center, shapes = np.zeros((n_models, width - 1)), np.zeros((n_models, width - 1, width - 1))
    for m in range(n_models):
        whole = _Centred(gram[m], moment[m])
        beta = whole.solutions([penalties[best]])[0]
        found["intercept"][m], found["coef"][:, m] = beta[0], beta[1:]
        center[m] = whole.center
        shapes[m] = whole.axes / np.sqrt(whole.values + penalties[best])
    return Solved(
        **found,
        noise=np.sqrt(errors[best] / np.maximum(counts, 1.0)),
        center=center,
        shapes=shapes.astype(np.float32),
        counts=counts,
        penalty=float(penalties[best]),
    )


class _Centred:
    """Sums of one model as a regression with an intercept that no penalty touches."""

    def __init__(self, gram: FloatArray, moment: FloatArray) -> None:
        count = max(float(gram[0, 0]), 1.0)
        self.center: FloatArray = gram[0, 1:] / count
        self.level = float(moment[0]) / count
        spread = gram[1:, 1:] - count * np.outer(self.center, self.center)
        values, self.axes = np.linalg.eigh(spread)
        self.values: FloatArray = np.maximum(values, 0.0)
        self.moment: FloatArray = self.axes.T @ (moment[1:] - count * self.center * self.level)

    def solutions(self, penalties: Sequence[float]) -> FloatArray:
        """`[P, D + 1]` the intercept and the coefficients with each penalty."""
        weight = self.moment / (self.values + np.asarray(penalties)[:, None])
        coef = weight @ self.axes.T
        return np.concatenate([(self.level - coef @ self.center)[:, None], coef], axis=1)
