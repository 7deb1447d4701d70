"""Avengers: each cluster of queries ranks the models; the first few answer, and a vote decides.

Routes a query to the best model of its cluster, or to the best n of them, before an answer exists,
on its embedding. Source: Zhang et al., The Avengers: A Simple Recipe for Uniting Smaller Language
Models to Challenge Proprietary Giants, arXiv 2505.19797.

    p[c, m] = accuracy of m on the training queries of cluster c        (k-means on unit vectors)
    x[q, m] = sum_c s_qc p[c, m],   s_q = softmax(10 cosine) over the nearest clusters
    answer  = majority of the n models of highest x[q]                       (n = 1: route)

A decision of the library names one model, so `estimate` and `route` are the case n = 1. For more,
`ensemble` gives the plan in which every query has n targets, weighted by x, and `majority` merges
their answers once they are there. Ours: 64 clusters or fewer, ten training queries to each; one
nearest cluster; n = 3; ties of a vote go to the model of higher x.

Shape letters: Q queries, M models, C clusters, D embedding width, N models of a vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays

if TYPE_CHECKING:
    from wye.core import Plan


class AvengersEstimator(KeptArrays, QualityEstimator):
    """Accuracy of each model in each k-means cluster.

    Args:
        n_clusters: C; fewer where queries are few.
        nearest: clusters that judge one query.
        seed: of k-means.
    """

    kept: ClassVar[tuple[str, ...]] = ("centers", "accuracy", "accuracy_std", "mean_std")

    def __init__(self, *, n_clusters: int = 64, nearest: int = 1, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.nearest = nearest
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Group the queries and count in each group."""
        count = worthwhile_count(self.n_clusters, len(inputs))
        self.centers_ = cluster_centers(inputs.vectors, count, self.seed)
        means = model_means(quality)
        owner = memberships(inputs.vectors, self.centers_, 1)
        self.accuracy_, self.accuracy_std_ = group_table(owner, quality, means, 0.0)
        self.mean_std_ = mean_std(quality, means)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        share = memberships(inputs.vectors, self.centers_, self.nearest)
        variance = share @ self.accuracy_std_**2 + self.mean_std_**2
        return share @ self.accuracy_, np.sqrt(variance)


@dataclass(kw_only=True, eq=False, repr=False)
class AvengersRouter(EmbeddedRouter):
    """Cluster-wise accuracy; the best model, or a vote of the best n.

    Args:
        n_clusters: clusters; fewer where queries are few.
        nearest: clusters that judge one query.
        n_models: models that vote in `ensemble`, where there are so many.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "avengers"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 3

    n_clusters: int = 64
    nearest: int = 1
    n_models: int = 3

    def ensemble(self, texts: Sequence[str]) -> Plan:
        """The models that answer each query: `n_models` targets a query, the best first.

        Its weights are the expected qualities over their sum for the query.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        from wye.core import Plan

        quality = self.estimate(texts).quality
        n = min(self.n_models, quality.shape[1])
        best = np.argsort(-quality, axis=1, kind="stable")[:, :n]
        weight = np.take_along_axis(quality, best, axis=1)
        weight = weight / weight.sum(axis=1, keepdims=True)
        source = np.repeat(np.arange(len(quality)), n)
        return Plan(source, best.ravel(), weight.ravel(), len(quality), quality.shape[1])

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if min(self.n_clusters, self.nearest, self.n_models) < 1:
            raise RouterError(
                f"n_clusters is {self.n_clusters}, nearest {self.nearest}, n_models "
                f"{self.n_models}; expected 1 or more of each"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "avengers": AvengersEstimator(
                n_clusters=self.n_clusters, nearest=self.nearest, seed=self.seed
            )
        }


def majority(answers: Sequence[Sequence[str]]) -> list[str]:
    """The answer that most models of each query gave; of ties, that of the model named first.

    Args:
        answers: Q rows of N answers in canonical form, in the order of `AvengersRouter.ensemble`;
            an empty one is no answer.

    Raises:
        RouterError: rows of different lengths, or without any answer.

    Example:
        >>> majority([["4", "5", "5"], ["a", "b", "c"]])
        ['5', 'a']
    """
    from wye.query.answers.voting import answer_numbers, vote

    winner = vote(answer_numbers(answers)).winner
    return [row[w] for row, w in zip(answers, winner.tolist(), strict=True)]
