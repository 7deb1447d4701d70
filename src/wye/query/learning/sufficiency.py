"""Estimators that say, of each model, how likely it suffices in place of the strongest.

Methods for a weak and a strong model judge one probability a query: that the weak one will do. With
M models each other model is the weak one in turn; strong is the best on average in training. What
such a judgement means for quality is learned as a rising straight line for each model:

    quality[q, m] = mean_strong + level_m + slope_m * x_qm  for m != strong,  mean_strong for strong

by least squares on gaps of quality to the strong model, so that the gap of the estimates of a model
and the strong one orders queries as 1 - x does. The slope is one for all models, or as much less as
keeps a line within 0 to 1 for every probability, so that different probabilities stay different.
The lines are learned on judgements of queries that were not learned from (two halves judge each
other): on its own training queries a judgement looks surer than it is. They are in the unit of
quality and keep each model's mean, so by default no common calibration follows, which would draw
the means of the models together.

Shape letters: Q queries, M models, D embedding width, L labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.calibration import LEAST, MOST
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, folds, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.misfit import local_misfit
from wye.query.learning.softmax_heads import SoftmaxHeads, fit_softmax_heads

if TYPE_CHECKING:
    from wye.query.policies.match import CheapestMatch

LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class SufficiencyLine:
    """From the probability of sufficing to quality.

    Attributes:
        strong: column of the strong model.
        strong_quality: its mean.
        level: `[M]` of each model's gap to it at probability 0.
        slope: `[M]` > 0, of the gap.
    """

    strong: int
    strong_quality: float
    level: FloatArray
    slope: FloatArray

    @classmethod
    def fit(cls, x: FloatArray, quality: FloatArray, strong: int) -> SufficiencyLine:
        """Least squares of the gap of `quality` to the strong model on `x`, both `[Q, M]`.

        Args:
            x: probability of sufficing.
            quality: outcomes, NaN where unknown.
            strong: column of the strong model.
        """
        means = model_means(quality)
        gap = quality - quality[:, [strong]]
        known = np.isfinite(gap) & (np.arange(quality.shape[1]) != strong)
        counts = known.sum(axis=0)
        x_mean = np.where(known, x, 0.0).sum(axis=0) / np.maximum(counts, 1)
        gap_mean = np.where(known, gap, 0.0).sum(axis=0) / np.maximum(counts, 1)
        # A model that was never compared with the strong one is placed by its mean.
        x_mean = np.where(counts > 0, x_mean, x.mean(axis=0))
        gap_mean = np.where(counts > 0, gap_mean, means - means[strong])
        x_off, gap_off = (x - x_mean)[known], (gap - gap_mean)[known]
        spread, rise = float(x_off @ x_off), float(x_off @ gap_off)
        slope = rise / spread if spread > 1e-9 else 0.0
        middle = np.clip(means[strong] + gap_mean, LEAST, MOST)
        rising = (MOST - middle) / np.maximum(1.0 - x_mean, 1e-9)
        falling = (middle - LEAST) / np.maximum(x_mean, 1e-9)
        slopes = np.maximum(np.minimum(slope, np.minimum(rising, falling)), LEAST_SLOPE)
        level = middle - means[strong] - slopes * x_mean
        return cls(strong, float(means[strong]), level, slopes)

    def apply(self, x: FloatArray) -> FloatArray:
        """Expected quality `[Q, M]`."""
        quality = self.strong_quality + self.level + self.slope * x
        quality[:, self.strong] = self.strong_quality
        return np.asarray(quality, np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The line as arrays, to be stored."""
        return {
            "strong": np.array([self.strong]),
            "level": self.level,
            "slope": self.slope,
            "strong_quality": np.array([self.strong_quality]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SufficiencyLine:
        """What `arrays` returned."""
        strong, quality = int(arrays["strong"][0]), float(arrays["strong_quality"][0])
        return cls(strong, quality, arrays["level"], arrays["slope"])


Judge = Callable[[QueryInputs, FloatArray, QueryInputs], FloatArray]


def judged_by_halves(
    judge: Judge, inputs: QueryInputs, quality: FloatArray, seed: int
) -> FloatArray:
    """`[Q, M]` what each half of the queries says of the other; of a single query, of itself.

    Args:
        judge: learns from the first queries and their outcomes, and judges the second ones.
        inputs, quality: Q queries and their outcomes.
        seed: of the halves.
    """
    if len(inputs) < 2:
        return judge(inputs, quality, inputs)
    x = np.empty(quality.shape)
    one, other = folds(len(inputs), 2, seed)
    for learned, judged in ((one, other), (other, one)):
        x[judged] = judge(inputs.rows(learned), quality[learned], inputs.rows(judged))
    return x


class SufficiencyEstimator(QualityEstimator):
    """Base: a system learns and says `sufficiency`, the line to quality comes from here.

    Args:
        seed: of the halves that judge each other.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def _learn(self, inputs: QueryInputs, quality: FloatArray, strong: int) -> None:
        """Learn from outcomes `[Q, M]` with the strong model in column `strong`."""

    @abstractmethod
    def sufficiency(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` probability that each model suffices; the strong model's column is not read."""

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn what suffices, and what that means for quality."""
        means = model_means(quality)
        strong = int(means.argmax())

        def judge(learned: QueryInputs, outcomes: FloatArray, judged: QueryInputs) -> FloatArray:
            self._learn(learned, outcomes, strong)
            return self.sufficiency(judged)

        x = judged_by_halves(judge, inputs, quality, self.seed)
        self.line_ = SufficiencyLine.fit(x, quality, strong)
        misfit = local_misfit(quality - self.line_.apply(x), inputs)
        self.std_ = np.hypot(misfit, mean_std(quality, means))
        self._learn(inputs, quality, strong)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.line_.apply(self.sufficiency(inputs))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The line; a system adds what it learned."""
        return {"std": self.std_, **self.line_.arrays()}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.std_ = arrays["std"]
        self.line_ = SufficiencyLine.from_arrays(arrays)


class LabelEstimator(SufficiencyEstimator):
    """A softmax head for each model on frozen vectors; a system makes its labels.

    Args:
        penalty: on the squared weights of the heads, in outcomes.
        seed: see `SufficiencyEstimator`.
    """

    def __init__(self, *, penalty: float = 1.0, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.penalty = penalty

    @abstractmethod
    def _labels(self, quality: FloatArray, strong: int) -> FloatArray:
        """`[Q, M, L]` target probability of each label, NaN where a head learns nothing."""

    @abstractmethod
    def _sufficing(self, probabilities: FloatArray) -> FloatArray:
        """`[Q, M]` from the label probabilities `[Q, M, L]`."""

    def _learn(self, inputs: QueryInputs, quality: FloatArray, strong: int) -> None:
        labels = self._labels(quality, strong)
        self.heads_ = fit_softmax_heads(inputs.vectors, labels, penalty=self.penalty)

    def sufficiency(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` probability that each model suffices."""
        return self._sufficing(self.heads_.probabilities(inputs.vectors))

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The heads and the line."""
        return super().get_state() | self.heads_.arrays()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.heads_ = SoftmaxHeads.from_arrays(arrays)


@dataclass(kw_only=True, eq=False, repr=False)
class SufficiencyRouter(EmbeddedRouter):
    """Base of the routers on a `SufficiencyEstimator`: adds the thresholds of the papers.

    Args:
        penalty: on the squared weights of the heads, in outcomes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    stacked = False
    n_folds = 2

    penalty: float = 1.0
    calibration: str = "none"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.penalty > 0:
            raise RouterError(f"penalty is {self.penalty}, expected a positive number")

    def policy(self, threshold: float) -> CheapestMatch:
        """The papers' rule: the cheapest model that suffices with probability >= `threshold`.

        Where none does the strong model answers. For two models: weak iff 1 - w >= threshold.

        Raises:
            NotFittedError: before `fit`.
            RouterError: the threshold is no probability, or the strong model has left.
        """
        from wye.query.policies.match import CheapestMatch

        self._require_fitted()
        if not 0.0 <= threshold <= 1.0:
            raise RouterError(f"threshold is {threshold}, expected a probability from 0 to 1")
        (estimator,) = self.estimators_.values()
        assert isinstance(estimator, SufficiencyEstimator)
        line = estimator.line_
        if line.strong not in self.kept_:
            raise RouterError("the strong model has left this router; fit it again")
        at = self.calibrator_.apply(line.apply(np.full((1, line.level.size), threshold)))[0]
        cutoff = dict(zip(self.models_, at[self.kept_].tolist(), strict=True))
        strong = self.models_[int(np.flatnonzero(self.kept_ == line.strong)[0])]
        return CheapestMatch(cutoff=cutoff, strong=strong)
