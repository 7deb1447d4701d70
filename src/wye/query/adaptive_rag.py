"""Adaptive-RAG: the simplest strategy that suffices, by a classifier of the query's complexity.

Routes a query to an answering strategy (no retrieval, one step, several steps; here any targets in
the order of their cost), before an answer exists, on its embedding. Paper: Jeong et al.,
Adaptive-RAG: Learning to Adapt Retrieval-Augmented LLMs through Question Complexity, arXiv
2403.14403, section 3.2.

    label(q) = the simplest target with a right answer; where none has one, the target that the
               query's data set is known to need
    P(label = m | q) = softmax(W e_q + b)_m;  the authors take argmax_m
    suffices(q, m) = sum of P(label = k | q) over targets k no dearer than m

Ours: the encoder is frozen. Simple means cheap: by mean cost where every model has one, else by
size, else by mean quality. An answer is right from quality 1/2 on. The data set's target is the one
with the best mean quality on it, the simplest of equals; a data set is read for labels of training
queries only. Quality is each model's mean, moved by a common slope times what `suffices` is above
its own mean. `label_probabilities` is what the authors' argmax is taken of.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import Logged, QueryInputs
from wye.query.learning.misfit import local_misfit
from wye.query.learning.softmax_heads import SoftmaxHeads, fit_softmax_heads
from wye.query.learning.sufficiency import judged_by_halves

RIGHT = 0.5
LEAST_SLOPE = 1e-3


class ComplexityEstimator(QualityEstimator):
    """A classifier of the simplest target that answers right.

    Args:
        penalty: on the squared weights of the head, in queries.
        seed: of the halves that judge each other for the slope.
    """

    def __init__(self, *, penalty: float = 1.0, seed: int = 0) -> None:
        self.penalty = penalty
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Label the queries, learn the labels, and what they mean for quality."""
        self.means_ = model_means(quality)
        self.rank_ = simplicity(inputs.logged, self.means_)
        suffices = judged_by_halves(self._judge, inputs, quality, self.seed)
        self.centre_ = suffices.mean(axis=0)
        known = np.isfinite(quality)
        off = (suffices - self.centre_)[known]
        spread = float(off @ off)
        rise = float(off @ (quality - self.means_)[known])
        self.slope_ = max(rise / spread, LEAST_SLOPE) if spread > 1e-9 else LEAST_SLOPE
        misfit = local_misfit(quality - self._quality(suffices), inputs)
        self.std_ = np.hypot(misfit, mean_std(quality, self.means_))
        self._judge(inputs, quality, inputs)
        return self

    def _judge(self, learned: QueryInputs, quality: FloatArray, judged: QueryInputs) -> FloatArray:
        datasets = None if learned.logged is None else learned.logged.datasets
        label = complexity_labels(quality, self.rank_, self.means_, datasets)
        target = np.eye(quality.shape[1])[label][:, None, :]
        self.head_ = fit_softmax_heads(learned.vectors, target, penalty=self.penalty)
        return self._suffices(judged)

    def label_probabilities(self, vectors: NDArray[np.float32]) -> FloatArray:
        """`[Q, M]` probability that each target is the simplest that answers right."""
        return np.asarray(self.head_.probabilities(vectors)[:, 0], np.float64)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self._quality(self._suffices(inputs))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _quality(self, suffices: FloatArray) -> FloatArray:
        return np.asarray(self.means_ + self.slope_ * (suffices - self.centre_), np.float64)

    def _suffices(self, inputs: QueryInputs) -> FloatArray:
        order = np.argsort(self.rank_)
        below = np.cumsum(self.label_probabilities(inputs.vectors)[:, order], axis=1)
        return np.asarray(below[:, self.rank_], np.float64)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The head, the order of the targets, and the line."""
        return {
            "means": self.means_,
            "std": self.std_,
            "rank": self.rank_,
            "centre": self.centre_,
            "slope": np.array([self.slope_]),
            **self.head_.arrays(),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.means_, self.std_ = arrays["means"], arrays["std"]
        self.rank_, self.centre_ = arrays["rank"], arrays["centre"]
        self.slope_ = float(arrays["slope"][0])
        self.head_ = SoftmaxHeads.from_arrays(arrays)


def simplicity(logged: Logged | None, means: FloatArray) -> NDArray[np.intp]:
    """`[M]` rank of each target, 0 the simplest: by mean cost, else size, else mean quality."""
    measure = means
    if logged is not None:
        known = np.isfinite(logged.cost)
        cost = np.where(known, logged.cost, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        if known.any(axis=0).all():
            measure = cost
        elif np.isfinite(logged.params_b).all():
            measure = logged.params_b
    rank = np.empty(means.size, np.intp)
    # Of equally simple targets the worse counts as the simpler.
    rank[np.lexsort((means, measure))] = np.arange(means.size)
    return rank


def complexity_labels(
    quality: FloatArray,
    rank: NDArray[np.intp],
    means: FloatArray,
    datasets: NDArray[np.str_] | None = None,
) -> NDArray[np.intp]:
    """`[Q]` column of the simplest target that answers right, else of what the data set needs.

    Args:
        quality: `[Q, M]`, NaN where unknown, which never counts as right.
        rank: `[M]` simplicity, 0 the simplest.
        means: `[M]` mean quality, for a model that never answered in a data set.
        datasets: `[Q]` names; one for all queries when None.

    Example:
        >>> quality = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
        >>> complexity_labels(quality, np.array([0, 1]), quality.mean(axis=0)).tolist()
        [1, 0, 1]
    """
    order = np.argsort(rank)
    right = (quality >= RIGHT)[:, order]
    label = order[right.argmax(axis=1)]
    hopeless = ~right.any(axis=1)
    names = np.zeros(len(quality), np.intp) if datasets is None else datasets
    for name in np.unique(names[hopeless]):
        rows = names == name
        part = quality[rows]
        counts = np.isfinite(part).sum(axis=0)
        average = np.where(counts > 0, np.nansum(part, axis=0) / np.maximum(counts, 1), means)
        label[rows & hopeless] = order[average[order].argmax()]
    return np.asarray(label, np.intp)


@dataclass(kw_only=True, eq=False, repr=False)
class AdaptiveRAGRouter(EmbeddedRouter):
    """A classifier of the simplest target that answers right.

    Args:
        penalty: on the squared weights of the head, in queries.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "adaptive-rag"
    stacked = False
    n_folds = 2

    penalty: float = 1.0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.penalty > 0:
            raise RouterError(f"penalty is {self.penalty}, expected a positive number")

    def label_probabilities(self, texts: Sequence[str]) -> FloatArray:
        """`[Q, M]` probability that each model is the simplest that answers right.

        Columns are those of training; a model that has left keeps its own.
        """
        self._require_fitted()
        estimator = self.estimators_["complexity"]
        assert isinstance(estimator, ComplexityEstimator)
        return estimator.label_probabilities(self._inputs(texts).vectors)

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"complexity": ComplexityEstimator(penalty=self.penalty, seed=self.seed)}
