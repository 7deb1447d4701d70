"""Models that join a fitted router from a few measured answers, without training it again.

What the routers share that can do this: the verb `add_model`, what an estimator must offer for it,
and what a handful of known models says of a newcomer before its first answer.

Shape letters: Q queries, M models, P parameters of one model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np

from wye.query.arguments import checked_texts
from wye.query.base import FloatArray, RouterError
from wye.query.learning.calibration import Combination
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs


class JoiningEstimator(QualityEstimator):
    """An estimator whose models are independent of each other once it is fitted.

    Attributes:
        mean_std_: `[M]` standard uncertainty of each model's mean quality.
    """

    mean_std_: FloatArray

    @abstractmethod
    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add a model from its measured quality `[Q]` on some queries; nothing else changes."""


class JoiningRouter(EmbeddedRouter):
    """Base of the routers that a model can join: they name the estimator that places it."""

    @abstractmethod
    def _joiner(self) -> JoiningEstimator:
        """The fitted estimator that places newcomers.

        Raises:
            NotFittedError: before `fit`.
        """

    def _has_joined(self, estimator: JoiningEstimator) -> None:
        """Called when `estimator` has taken a newcomer in, for what the router keeps beside it."""

    def add_model(
        self,
        name: str,
        texts: Sequence[str],
        quality: Sequence[float],
        *,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        price_in_per_mtok: float | None = None,
        price_out_per_mtok: float | None = None,
    ) -> Self:
        """Let a model join from its measured answers, 20 to 50 of them, without retraining.

        Args:
            name: of the model.
            texts: Q queries that it answered.
            quality: `[Q]` quality of its answers, 0 to 1.
            cost_usd: its mean cost of an answer, where known.
            latency_s: its mean seconds to an answer, where known.
            price_in_per_mtok, price_out_per_mtok: USD per million tokens; the cost of a model
                without `cost_usd` is estimated from them.

        Raises:
            NotFittedError: before `fit`.
            RouterError: the name is taken or empty, `texts` are not strings, `quality` does not
                fit, or a cost, latency or price is no number of 0 or more.
        """
        estimator = self._joiner()
        if not isinstance(name, str) or not name.strip():
            raise RouterError(f"the model's name is {name!r}, expected a text that is not empty")
        if name in self.models_:
            raise RouterError(
                f"a model {name!r} is there already; let it leave first (remove_model, wye leave)"
            )
        texts = checked_texts(texts)
        _check_money(
            cost_usd=cost_usd,
            latency_s=latency_s,
            price_in_per_mtok=price_in_per_mtok,
            price_out_per_mtok=price_out_per_mtok,
        )
        if (price_in_per_mtok is None) != (price_out_per_mtok is None):
            raise RouterError(
                f"price_in_per_mtok is {price_in_per_mtok} and price_out_per_mtok "
                f"{price_out_per_mtok}; a cost follows from both, so give both or neither"
            )
        try:
            measured = np.asarray(quality, np.float64)
        except (TypeError, ValueError) as error:
            raise RouterError(f"quality is no sequence of numbers: {error}") from error
        if measured.shape != (len(texts),) or not len(texts):
            raise RouterError(
                f"quality has shape {measured.shape} for {len(texts)} texts; "
                "expected one figure a text, and at least one"
            )
        if not ((measured >= 0) & (measured <= 1)).all():
            raise RouterError("quality of a model that joins must be 0 to 1, without NaN")
        estimator.join(self._inputs(texts), measured)
        self.kept_ = np.append(self.kept_, len(self.mean_std_))
        self.models_ = (*self.models_, name)
        self.mean_std_ = np.append(self.mean_std_, estimator.mean_std_[-1])
        self._has_joined(estimator)
        self.cost_model_ = self.cost_model_.with_model(
            cost=_or_nan(cost_usd),
            latency=_or_nan(latency_s),
            price_in=_or_nan(price_in_per_mtok) / 1e6,
            price_out=_or_nan(price_out_per_mtok) / 1e6,
        )
        return self


class PlacingEstimator(JoiningEstimator):
    """An estimator that predicts the quality of newcomers beside that of the models it learned."""

    @property
    @abstractmethod
    def levels(self) -> FloatArray:
        """Expected quality of each model averaged over the training queries, `[M]`."""


class PlacingRouter(JoiningRouter):
    """Base of the routers whose one estimator places newcomers itself."""

    def _joiner(self) -> PlacingEstimator:
        self._require_fitted()
        (estimator,) = self.estimators_.values()
        assert isinstance(estimator, PlacingEstimator)
        return estimator

    def _has_joined(self, estimator: JoiningEstimator) -> None:
        assert isinstance(estimator, PlacingEstimator)
        old = self.combination_
        means = np.append(old.means, estimator.levels[-1])
        self.combination_ = Combination(means=means, common=old.common, contrast=old.contrast)


def newcomer_prior(factors: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean `[P]` and covariance `[P, P]` of the parameters of a model not seen yet.

    A handful of models says little of how a newcomer may differ: their covariance is pulled towards
    the diagonal `width` as if that had been seen on P + 1 more models.

    Args:
        factors: `[M, P]` parameters of the known models.
        width: `[P]` variance of each parameter that is thought possible, above 0.
    """
    mean = factors.mean(axis=0)
    spread = factors - mean
    trust = factors.shape[1] + 1
    covariance = (spread.T @ spread + trust * np.diag(width)) / (len(factors) + trust - 1)
    return mean, np.asarray(covariance, np.float64)


def _check_money(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise RouterError(
                f"{name} is {value}, expected a number of 0 or more, or None where unknown"
            )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
