"""Calibration: predictions made out of fold are shrunk, combined, and turned into probabilities.

Three steps, all learned on predictions for queries that an estimator had not seen:

1. `Combination`: quality = mean_m + sum_h a_h D_hq + sum_h b_h R_hqm, with a, b >= 0 by
   non-negative least squares (stacked regression: Breiman, Machine Learning 24, 1996). D is what
   estimator h says of all models together on query q, R what it says of model m beside that. Where
   the text tells nothing about which model is better, b is near zero: the router falls back to the
   best single model by itself.
2. `Calibrator`: one increasing map for all models, so that their order stays: Platt's logistic map
   (Platt, 1999), the same without intercept (a temperature: Guo et al. 2017, arXiv 1706.04599) or
   isotonic regression (Zadrozny and Elkan, 2002), all by scikit-learn.
3. `Reliability`: predicted against observed quality, to look at.

Shape letters: Q queries, M models, H estimators, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

METHODS = ("platt", "temperature", "isotonic", "none")
LEAST, MOST = 0.002, 0.998
TUNING_CELLS = 100_000
# A model this much below the best on average counts 1/e of it when weights are learned.
COMPETITIVE = 0.1
# Share of the explained squares that may go with an estimator that is left out.
IDLE = 0.005


@dataclass(frozen=True)
class Combination:
    """How much of each estimator counts.

    Attributes:
        means: `[M]` mean quality of each model.
        common: `[H]` weight of what an estimator says of all models together.
        contrast: `[H]` weight of what it says of each model beside that.
    """

    means: FloatArray
    common: FloatArray
    contrast: FloatArray

    def used(self) -> NDArray[np.intp]:
        """Which estimators count at all."""
        return np.flatnonzero((self.common > 0) | (self.contrast > 0))

    def combine(self, predictions: FloatArray | Sequence[FloatArray]) -> FloatArray:
        """Predictions `[H, Q, M]` of the estimators as one, `[Q, M]`."""
        predictions = np.asarray(predictions, np.float64)
        n_estimators, n_queries, n_models = predictions.shape
        level, lean = self._level_and_lean
        # With c the mean of p - mean over the models, the common part a c and the contrast
        # b (p - mean - c) of an estimator are b p + (a - b) c - b mean.
        sums = np.add.reduce(predictions, axis=2)
        flat = predictions.reshape(n_estimators, n_queries * n_models)
        result = (self.contrast @ flat).reshape(n_queries, n_models)
        return np.asarray(result + (lean @ sums)[:, None] + level, np.float64)

    @cached_property
    def _level_and_lean(self) -> tuple[FloatArray, FloatArray]:
        """`[1, M]` what `combine` adds, and `[H]` weight of the sum over the models."""
        lean = (self.common - self.contrast) / max(1, self.means.size)
        level = self.means * (1.0 - self.contrast.sum()) - lean.sum() * self.means.sum()
        return level[None], lean

    def uncertainty(self, predictions: FloatArray, stds: FloatArray) -> FloatArray:
        """Standard uncertainty `[Q, M]`: of the estimators, and of their disagreement.

        Args:
            predictions, stds: `[H, Q, M]`; those of estimators of no weight do not matter.
        """
        n_estimators, n_queries, n_models = predictions.shape
        flat = (n_estimators, n_queries * n_models)
        squares = stds * stds + predictions * predictions
        mean = self._shares @ predictions.reshape(flat)
        square = self._shares @ squares.reshape(flat)
        variance = np.maximum(square - mean * mean, 0.0)
        return np.asarray(np.sqrt(variance).reshape(n_queries, n_models), np.float64)

    @cached_property
    def _shares(self) -> FloatArray:
        """`[H]` share of each estimator in the uncertainty; the first alone where none counts."""
        weights = self.common + self.contrast
        total = float(weights.sum())
        return weights / total if total > 0 else np.eye(len(weights))[0]


def fit_combination(
    predictions: Sequence[FloatArray], quality: FloatArray, means: FloatArray
) -> Combination:
    """Weights of H estimators from their out-of-fold `predictions`, `[Q, M]` each.

    Args:
        predictions: out-of-fold predictions, finite.
        quality: `[Q, M]` outcomes, NaN where unknown.
        means: `[M]` mean quality of each model.
    """
    known = np.isfinite(quality)
    target = (quality - means)[known]
    columns: list[FloatArray] = []
    for prediction in predictions:
        common, contrast = _parts(prediction, means)
        columns += [np.broadcast_to(common[:, None], quality.shape)[known], contrast[known]]
    # What sets the better models apart decides where a query goes; the others hardly matter.
    weight = np.exp((means - means.max()) / COMPETITIVE)
    root = np.sqrt(np.broadcast_to(weight, quality.shape)[known])
    design = np.stack(columns, axis=1) * root[:, None]
    target = target * root
    # Normal equations keep the problem at [2H, 2H], whatever the number of outcomes.
    gram, moment = design.T @ design, design.T @ target
    gram[np.diag_indices_from(gram)] += 1e-9 * max(1.0, float(np.trace(gram)))
    weights = _without_idle(gram, moment)
    return Combination(means=means, common=weights[0::2], contrast=weights[1::2])


def _without_idle(gram: FloatArray, moment: FloatArray) -> FloatArray:
    """Non-negative weights `[2H]`, zero for estimators that explain next to nothing beside others.

    Backward elimination: whoever explains least is left out while the rest explain nearly as much
    as all together. A decision then asks no estimator that hardly moves it.
    """
    kept = list(range(len(moment) // 2))
    weights, everything = _least_squares(gram, moment, kept)
    while len(kept) > 1:
        shorter = [[h for h in kept if h != out] for out in kept]
        fits = [_least_squares(gram, moment, rest) for rest in shorter]
        best = int(np.argmax([explained for _, explained in fits]))
        if fits[best][1] < (1.0 - IDLE) * everything:
            break
        kept, weights = shorter[best], fits[best][0]
    return weights


def _least_squares(
    gram: FloatArray, moment: FloatArray, kept: Sequence[int]
) -> tuple[FloatArray, float]:
    """Weights `[2H]` of the estimators `kept`, others zero, and the squares that they explain."""
    from scipy.optimize import nnls

    columns = np.array([2 * h + part for h in kept for part in (0, 1)])
    own, target = gram[np.ix_(columns, columns)], moment[columns]
    lower = np.linalg.cholesky(own)
    found, _ = nnls(lower.T, np.linalg.solve(lower, target))
    weights = np.zeros(len(moment))
    weights[columns] = found
    return weights, float(2.0 * found @ target - found @ own @ found)


def _parts(prediction: FloatArray, means: FloatArray) -> tuple[FloatArray, FloatArray]:
    excess = prediction - means
    common = np.add.reduce(excess, axis=1) / max(1, means.size)
    return common, excess - common[:, None]


@dataclass(frozen=True)
class Calibrator:
    """An increasing map from raw to calibrated quality.

    Attributes:
        method: `platt` (knots are slope and intercept on the logit; a temperature T is the slope
            1 / T), `isotonic` (knots are abscissae and ordinates) or `none`.
        knots: `[2]`, `[2, B]` or `[0]`.
    """

    method: str
    knots: FloatArray

    def apply(self, raw: FloatArray) -> FloatArray:
        """Calibrated quality, LEAST to MOST, of any shape."""
        if self.method == "platt":
            # The logistic function of slope logit(raw) + intercept, without a logarithm.
            slope, intercept = self.knots.tolist()
            raw = 1.0 / (1.0 + math.exp(-intercept) * (1.0 / _limited(raw) - 1.0) ** slope)
        elif self.method == "isotonic":
            raw = np.interp(raw, self.knots[0], self.knots[1])
        return _limited(raw)

    def slope(self, raw: FloatArray, mapped: FloatArray) -> FloatArray:
        """Derivative of `apply`, by which an uncertainty stretches; `mapped` is `apply(raw)`."""
        if self.method == "platt":
            limited = _limited(raw)
            steepness: float = self.knots.item(0)
            return (steepness * (mapped - mapped * mapped)) / (limited - limited * limited)
        step = 0.02
        return (self.apply(raw + step) - self.apply(raw - step)) / (2 * step)


def fit_calibrator(method: str, raw: FloatArray, quality: FloatArray, seed: int) -> Calibrator:
    """The map that best turns `raw` into `quality`, NaN where unknown, both `[Q, M]`.

    Fractional quality counts as that share of a success.
    """
    check_method(method)
    known = np.isfinite(quality)
    x, y = raw[known], quality[known]
    if x.size > TUNING_CELLS:
        chosen = np.random.default_rng(seed).choice(x.size, TUNING_CELLS, replace=False)
        x, y = x[chosen], y[chosen]
    if method in ("platt", "temperature") and 0.0 < y.mean() < 1.0:
        from sklearn.linear_model import LogisticRegression

        column = np.tile(_logit(x), 2)[:, None]
        label = np.repeat([1, 0], x.size)
        weight = np.concatenate([y, 1.0 - y])
        keep = weight > 0
        platt = LogisticRegression(C=1e6, fit_intercept=method == "platt")
        platt.fit(column[keep], label[keep], weight[keep])
        slope = max(float(platt.coef_[0, 0]), 1e-3)
        return Calibrator("platt", np.array([slope, float(np.ravel(platt.intercept_)[0])]))
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(out_of_bounds="clip").fit(x, y)
        return Calibrator("isotonic", np.stack([fitted.X_thresholds_, fitted.y_thresholds_]))
    return Calibrator("none", np.zeros(0))


def check_method(method: str) -> None:
    """Refuse an unknown way of calibrating.

    Raises:
        RouterError: `method` is none of `METHODS`.
    """
    if method not in METHODS:
        raise RouterError(f"calibration is {method!r}, expected one of {list(METHODS)}")


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed quality in at most B bins of about equal count.

    Attributes:
        predicted: `[B]` mean prediction.
        observed: `[B]` mean outcome.
        count: `[B]` outcomes.
        ece: expected calibration error, sum_b count_b / n |predicted_b - observed_b| (Naeini et
            al., AAAI 2015), over bins of equal count.
        brier: mean squared difference of prediction and outcome (Brier, 1950).
    """

    predicted: FloatArray
    observed: FloatArray
    count: FloatArray
    ece: float
    brier: float

    @classmethod
    def of(cls, predicted: FloatArray, quality: FloatArray, bins: int = 15) -> Reliability:
        """The curve of predictions and outcomes of the same shape, NaN where unknown."""
        known = np.isfinite(quality)
        x, y = predicted[known], quality[known]
        # Equal predictions share a bin: a constant one has a single bin, whatever the order.
        edges = np.unique(np.quantile(x, np.arange(1, bins) / bins))
        owner = np.searchsorted(edges, x, side="right")
        count = np.bincount(owner).astype(np.float64)
        filled = count > 0
        count = count[filled]
        middle = np.bincount(owner, x)[filled] / count
        seen = np.bincount(owner, y)[filled] / count
        return cls(
            predicted=middle,
            observed=seen,
            count=count,
            ece=float((count * np.abs(middle - seen)).sum() / count.sum()),
            brier=float(((x - y) ** 2).mean()),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The curve as arrays, to be stored."""
        return {
            "curve": np.stack([self.predicted, self.observed, self.count]),
            "figures": np.array([self.ece, self.brier]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reliability:
        """What `arrays` returned."""
        predicted, observed, count = arrays["curve"]
        ece, brier = (float(v) for v in arrays["figures"])
        return cls(predicted, observed, count, ece, brier)


def _limited(p: FloatArray) -> FloatArray:
    # The same as np.clip, which costs several times as much on a single query.
    return np.asarray(np.minimum(np.maximum(p, LEAST), MOST), np.float64)


def _logit(p: FloatArray) -> FloatArray:
    p = _limited(p)
    return np.asarray(np.log(p / (1.0 - p)), np.float64)
