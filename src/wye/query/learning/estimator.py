"""The contract of a quality estimator, and what all of them share: the means of the models.

A router (`wye.query.learning.embedded.EmbeddedRouter`) is made of one or more estimators. An
estimator learns quality from vectors, features and neighbours, and from whatever else the log says
of the training queries (`QueryInputs.logged`); cost, latency, calibration and storage are the
router's business.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.inputs import QueryInputs


class QualityEstimator(ABC):
    """Learns the quality of M models from outcomes `[Q, M]` in which NaN is unknown."""

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return 0

    @abstractmethod
    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn. Every row of `quality` has a known outcome."""

    @abstractmethod
    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`, finite."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""


def model_means(quality: FloatArray, *, rounds: int = 50) -> FloatArray:
    """Mean quality of each model `[M]` as if every model had answered every query.

    Where outcomes are missing, the mean over the queries that a model answered compares it on other
    queries than its rivals. This is the additive fit quality = mean_m + difficulty_q by alternating
    least squares; with no outcome missing it is the plain mean. A model without any outcome gets
    the mean of the others.
    """
    known = np.isfinite(quality)
    filled = np.where(known, quality, 0.0)
    counts = known.sum(axis=0)
    overall = float(filled.sum() / known.sum())
    plain = np.where(counts > 0, filled.sum(axis=0) / np.maximum(counts, 1), overall)
    if known.all():
        return plain
    means = plain
    for _ in range(rounds):
        difficulty = common_part(quality, means)
        updated = np.where(known, filled - difficulty[:, None], 0.0).sum(axis=0)
        updated = np.where(counts > 0, updated / np.maximum(counts, 1), overall)
        # The level of all models together stays that of the data; only gaps are adjusted.
        updated += (counts @ plain - counts @ updated) / max(1, counts.sum())
        moved = float(np.abs(updated - means).max())
        means = updated
        if moved < 1e-6:
            break
    return np.clip(means, 0.0, 1.0)


def common_part(quality: FloatArray, means: FloatArray) -> FloatArray:
    """How much better or worse than usual the models did on each query together, `[Q]`.

    The mean of quality - mean_m over the known outcomes of a query. With a single outcome nothing
    tells an easy query from a good model, so half of it counts.
    """
    known = np.isfinite(quality)
    counts = known.sum(axis=1)
    total = np.where(known, quality - means, 0.0).sum(axis=1)
    return np.asarray(total / np.where(counts == 1, 2, np.maximum(counts, 1)), np.float64)


def contrast_error(quality: FloatArray, predicted: FloatArray, means: FloatArray) -> float:
    """Mean squared error of what sets the models apart on a query, over the known outcomes.

    Routing depends on differences between models alone, so this, not the plain error, chooses
    hyperparameters. With one model there is no difference and the plain error is taken.
    """
    error = quality - predicted
    if quality.shape[1] > 1:
        error = error - common_part(error, np.zeros_like(means))[:, None]
    return float(np.nanmean(error**2))


def mean_std(quality: FloatArray, means: FloatArray) -> FloatArray:
    """Standard uncertainty of each model's mean `[M]`, finite for a model never seen."""
    known = np.isfinite(quality)
    counts = known.sum(axis=0)
    spread = np.where(known, (quality - means) ** 2, 0.0).sum(axis=0)
    # Half a success and half a failure keep a model that was always right from looking certain.
    variance = (spread + 0.25) / (counts + 1.0)
    return np.asarray(np.sqrt(variance / np.maximum(counts, 1)), np.float64)


def effective_parameters(columns: FloatArray, decay: float) -> float:
    """What a fit on `[Q, D]` columns with weight decay has of its D parameters, 0 to D.

    sum_i s_i / (s_i + decay) over the eigenvalues s of columns' columns (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, eq. 3.50).
    """
    values = np.maximum(np.linalg.eigvalsh(columns.T @ columns), 0.0)
    return float((values / (values + decay)).sum())


def fitted_std(quality: FloatArray, predicted: FloatArray, n_parameters: float) -> FloatArray:
    """Standard uncertainty `[M]` of what a model with `n_parameters` predicts of a query.

    The noise of the outcomes around the predictions times the root of the mean leverage of a least
    squares fit, parameters / outcomes, which is 1 where there are no more outcomes than parameters.

    Args:
        quality: `[Q, M]`, NaN where unknown.
        predicted: `[Q, M]` for the same queries.
        n_parameters: behind each model's predictions.
    """
    known = np.isfinite(quality)
    counts = known.sum(axis=0)
    error = np.where(known, quality - predicted, 0.0)
    variance = ((error**2).sum(axis=0) + 0.25) / (counts + 1.0)
    leverage = np.minimum(1.0, n_parameters / np.maximum(counts, 1))
    return np.asarray(np.sqrt(variance * leverage), np.float64)


def folds(n: int, count: int, seed: int) -> list[NDArray[np.intp]]:
    """`count` random parts of `range(n)`, of equal size within one, each sorted."""
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, min(count, n))]
