"""Factorisation: a low-rank outcome matrix with a query encoder; a model joins from a few answers.

Routes a query to a model, before an answer exists, on its embedding and text features. Source:
EmbedLLM, Zhuang et al., arXiv 2410.02223 (correctness from a model vector and an encoded query);
here the two factors come in closed form, by reduced-rank ridge regression (Mukherjee and Zhu,
Statistical Analysis and Data Mining 4, 2011).

    quality[q, m] = bias_m + u(x_q) . v_m,   u(x) = (x - mean) W   in R^rank

W and v are the leading singular directions of the ridge fit. For a model that joins, u stays as it
is: (bias, v) gets the posterior mean of a Bayesian linear regression of its measured answers on u,
whose prior is the mean and the widened covariance of the models known so far.

Shape letters: Q queries, M models, D columns of `QueryInputs.columns`, K rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.active import ChoosingRouter
from wye.query.learning.calibration import Combination
from wye.query.learning.estimator import (
    QualityEstimator,
    common_part,
    contrast_error,
    mean_std,
    model_means,
)
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import JoiningEstimator, newcomer_prior
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.ridge import fit_ridge

RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
# Relative error of differences that is given for directions in reserve.
SLACK = 0.005
# Of the mean quality of a model that joins, before its first answer.
BIAS_VARIANCE = 0.04
# Standard deviation of one answer's quality about what is expected of it, at least.
LEAST_NOISE = 0.01


class FactorisationEstimator(KeptArrays, JoiningEstimator):
    """Reduced-rank ridge regression of quality on the embedding and text features.

    Args:
        rank: K; chosen by leave-one-out error when None.
    """

    kept: ClassVar[tuple[str, ...]] = (
        "center",
        "encoder",
        "vectors",
        "bias",
        "noise",
        "mean_std",
        "counts",
        "reach",
        "n_queries",
        "n_learned",
    )

    def __init__(self, *, rank: int | None = None) -> None:
        self.rank = rank

    center_: NDArray[np.float32]
    encoder_: NDArray[np.float32]
    vectors_: FloatArray
    bias_: FloatArray

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Factorise; the rank by leave-one-out error."""
        self._factorise(inputs, quality)
        self.mean_std_ = mean_std(quality, model_means(quality))
        encoded = self.encode(inputs)
        known = np.isfinite(quality)
        error = np.where(known, quality - self._quality(encoded), 0.0)
        counts = np.maximum(known.sum(axis=0), 1)
        self.noise_ = np.sqrt((error**2).sum(axis=0) / counts)
        # [K, K] uncertainty of a model vector, up to the noise.
        self.reach_ = np.linalg.inv(encoded.T @ encoded + np.eye(encoded.shape[1]))
        self.counts_ = known.sum(axis=0).astype(np.float64)
        self.n_queries_ = np.array([float(len(inputs))])
        self.n_learned_ = np.array([quality.shape[1]])
        self._derive()
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        encoded = self.encode(inputs)
        leverage = np.add.reduce((encoded @ self.reach_) * encoded, axis=1)
        variance = leverage[:, None] * self._spread + self._least
        return self._quality(encoded), np.sqrt(variance)

    def _derive(self) -> None:
        # [M] variance that one unit of leverage adds, the wider the fewer answers a model gave.
        rare = self.n_queries_[0] / np.maximum(self.counts_, 1.0)
        self._spread = (rare * self.noise_**2)[None]
        self._least = self.mean_std_[None] ** 2

    def encode(self, inputs: QueryInputs) -> FloatArray:
        """The code u of each query, `[Q, K]`."""
        return np.asarray((inputs.columns - self.center_[None]) @ self.encoder_, np.float64)

    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add a model from its measured quality `[Q]` on some queries; nothing else changes."""
        known = np.isfinite(quality)
        code = self.code(inputs)[known]
        prior_mean, covariance, noise = self.prior()
        precision = np.linalg.inv(covariance)
        posterior = np.linalg.inv(precision + code.T @ code / noise**2)
        moment = precision @ prior_mean + code.T @ quality[known] / noise**2
        mean = posterior @ moment
        self.bias_ = np.append(self.bias_, mean[0])
        self.vectors_ = np.concatenate([self.vectors_, mean[None, 1:]])
        self.noise_ = np.append(self.noise_, noise)
        self.mean_std_ = np.append(self.mean_std_, np.sqrt(posterior[0, 0]))
        self.counts_ = np.append(self.counts_, float(known.sum()))
        self._derive()
        return self

    def code(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, 1 + K]` what (bias, v) of a model is multiplied with: one, and the code u."""
        return np.concatenate([np.ones((len(inputs), 1)), self.encode(inputs)], axis=1)

    def prior(self) -> tuple[FloatArray, FloatArray, float]:
        """Of a newcomer's (bias, v): mean `[1 + K]`, covariance, and the noise of one answer."""
        factors = np.concatenate([self.bias_[:, None], self.vectors_], axis=1)
        # Every direction may be as wide as the vectors of the known models are long.
        width = np.full(factors.shape[1], float((self.vectors_**2).mean()) + 1e-6)
        width[0] = BIAS_VARIANCE
        prior_mean, covariance = newcomer_prior(factors, width)
        # Answers that the model explains without a rest would otherwise weigh infinitely much.
        noise = max(float(np.sqrt((self.noise_**2).mean())), LEAST_NOISE)
        return prior_mean, covariance, noise

    def drop(self, column: int) -> Self:
        """Remove a model."""
        for name in ("bias_", "vectors_", "noise_", "mean_std_", "counts_"):
            setattr(self, name, np.delete(getattr(self, name), column, axis=0))
        self._derive()
        return self

    def _quality(self, encoded: FloatArray) -> FloatArray:
        return np.asarray(encoded @ self.vectors_.T + self.bias_[None], np.float64)

    def _factorise(self, inputs: QueryInputs, quality: FloatArray) -> None:
        means = model_means(quality)
        common = common_part(quality, means)
        difficulty = fit_ridge(inputs.design, common[:, None])
        contrast = fit_ridge(inputs.design, quality - means - common[:, None])
        coef = difficulty.coef + contrast.coef
        self.center_ = inputs.columns.mean(axis=0)
        centred = np.asarray(inputs.columns - self.center_, np.float64)
        _, singular, directions = np.linalg.svd(centred @ coef, full_matrices=False)
        level = means + difficulty.intercept + contrast.intercept + self.center_ @ coef
        excess = means + difficulty.held_out + contrast.held_out - level
        rank = self._choose_rank(excess, directions, quality - level)
        vectors = directions[:rank].T
        # Unit variance of the code puts what models differ by into their vectors.
        scale = np.maximum(singular[:rank] / np.sqrt(len(inputs)), 1e-12)
        self.encoder_ = (coef @ vectors / scale).astype(np.float32)
        self.vectors_ = vectors * scale
        self.bias_ = np.asarray(level, np.float64)

    def _choose_rank(self, excess: FloatArray, directions: FloatArray, truth: FloatArray) -> int:
        """The most directions with which leave-one-out predictions `excess` err hardly more.

        A direction that the known models do not need may be the one in which a newcomer differs.
        """
        if self.rank is not None:
            return min(self.rank, len(directions))
        ranks: list[int] = sorted({min(r, len(directions)) for r in RANKS})
        zero = np.zeros(truth.shape[1])
        errors = [
            contrast_error(truth, excess @ directions[:r].T @ directions[:r], zero) for r in ranks
        ]
        return max(r for r, e in zip(ranks, errors, strict=True) if e <= (1 + SLACK) * min(errors))


@dataclass(kw_only=True, eq=False, repr=False)
class FactorisationRouter(ChoosingRouter):
    """Low-rank factorisation with a query encoder; models join and leave without retraining.

    Args:
        rank: width of the codes; chosen by leave-one-out error when None.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "factorisation"

    rank: int | None = None

    def remove_model(self, name: str) -> Self:
        """Let a model leave at once; of one that had joined, nothing stays behind.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no such model, or it is the last one.
        """
        column = int(self.kept_[self._column(name)])
        super().remove_model(name)
        if column < self._joiner().n_learned_[0]:
            return self
        self._joiner().drop(column)
        self.kept_ = self.kept_ - (self.kept_ > column)
        self.mean_std_ = np.delete(self.mean_std_, column)
        self._set_means(np.delete(self.combination_.means, column))
        self.cost_model_ = self.cost_model_.without(column)
        return self

    def _joiner(self) -> FactorisationEstimator:
        self._require_fitted()
        estimator = self.estimators_["factorisation"]
        assert isinstance(estimator, FactorisationEstimator)
        return estimator

    def _has_joined(self, estimator: JoiningEstimator) -> None:
        assert isinstance(estimator, FactorisationEstimator)
        # Averaged over the training queries the code is zero, so the bias is the mean quality.
        self._set_means(np.append(self.combination_.means, estimator.bias_[-1]))

    def _set_means(self, means: FloatArray) -> None:
        old = self.combination_
        self.combination_ = Combination(means=means, common=old.common, contrast=old.contrast)

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"factorisation": FactorisationEstimator(rank=self.rank)}
