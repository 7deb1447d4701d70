"""Shnitzer's scores S1, S2 and S3: one model for a task, by predicted correctness on its queries.

Routes a whole task (a batch of queries of one kind) to a model, before an answer exists, on the
embeddings of its queries. Source: Shnitzer et al., Large Language Model Routing with Benchmark
Datasets, arXiv 2309.15789.

    g_m(q)   share of right answers of m among the k nearest known queries
    S1[m] = mean_q g_m(q)
    S2[m] = mean_q 1[g_m(q) > 1/2]
    S3[m] = p S1[m] + (1 - p) prior_m,     prior_m = mean quality of m in training

p is how reliable g_m is as far from the known queries as this task is: on each known dataset, g_m
is asked once with the dataset's own queries among the neighbours and once without (leave one
dataset out), which gives two points (u, p): the mean distance of the neighbours, and the share of
queries on which g_m is on the right side of one half. A Gaussian kernel over u reads p off them.

The scores belong to a task, so `score_task` and `route_task` take its queries together. `estimate`
must not depend on which queries come in one call: there every query is a task of its own. Then S1
is g itself, S2 only says whether g is above one half, and p is that of the single query.

Ours: k = 20; ties of S2 are broken by S1, which counts a hundredth; the kernel's width is by
Scott's rule (standard deviation of the points over their number to the power 1/5); where the log
names no datasets, k-means clusters stand for them.

Shape letters: Q queries, M models, K neighbours, R references, C datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import CELLS_AT_ONCE, Neighbours, QueryInputs
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.score_link import ScoreLink

SCORES = ("S1", "S2", "S3")
TIE_BREAK = 0.01
CLUSTERS = 16


class ShnitzerEstimator(KeptArrays, QualityEstimator):
    """Nearest-neighbour correctness of every model, and how far it can be trusted.

    Args:
        score: `S1`, `S2` or `S3`.
        k: neighbours.
        seed: of k-means, where clusters stand for datasets.
    """

    kept: ClassVar[tuple[str, ...]] = (
        "outcomes",
        "means",
        "mean_std",
        "distances",
        "reliabilities",
    )

    def __init__(self, *, score: str = "S1", k: int = 20, seed: int = 0) -> None:
        self.score = score
        self.k = k
        self.seed = seed

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Keep the outcomes of the references; measure the reliability of g."""
        self.means_ = model_means(quality)
        self.mean_std_ = mean_std(quality, self.means_)
        rows = np.flatnonzero(inputs.reference >= 0)
        self.outcomes_ = np.full((inputs.n_references, len(self.means_)), np.nan)
        self.outcomes_[inputs.reference[rows]] = quality[rows]
        self.distances_, self.reliabilities_ = self._reliability(inputs, quality)
        scores = self._scores(inputs)[0]
        self.link_ = ScoreLink.fit(scores, quality)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality by the score of each query as its own task, its std, each `[Q, M]`."""
        scores, count = self._scores(inputs)
        # S1 and S3 are qualities; a share of queries, of which there is one, is not.
        quality = self.link_.apply(scores) if self.score == "S2" else scores
        limited = np.clip(quality, 0.05, 0.95)
        return quality, np.sqrt(limited * (1.0 - limited) / (1.0 + count) + self.mean_std_**2)

    def score_task(self, inputs: QueryInputs) -> FloatArray:
        """The score of each model `[M]` on all queries together."""
        correct, distance, _ = self._correctness(inputs.neighbours)
        means = correct.mean(axis=0, keepdims=True)
        above = above_half(correct).mean(axis=0, keepdims=True)
        scores = self._scored(means, above, distance.mean(keepdims=True))
        return np.asarray(scores[0], np.float64)

    def reliability(self, distance: FloatArray) -> FloatArray:
        """p of tasks `[T]` at a mean distance from the known queries, `[T, M]`."""
        width = float(self.distances_.std()) * len(self.distances_) ** -0.2
        gap = (distance[:, None] - self.distances_) / max(width, 1e-3)
        nearness = -0.5 * gap**2
        weight = np.exp(nearness - nearness.max(axis=1, keepdims=True))
        return np.asarray(weight @ self.reliabilities_ / weight.sum(axis=1, keepdims=True))

    def _scores(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """The score of each query as a task of its own, and neighbours that answered, `[Q, M]`."""
        correct, distance, count = self._correctness(inputs.neighbours)
        return self._scored(correct, above_half(correct), distance), count

    def _scored(self, s1: FloatArray, s2: FloatArray, distance: FloatArray) -> FloatArray:
        if self.score == "S1":
            return s1
        if self.score == "S2":
            return (1.0 - TIE_BREAK) * s2 + TIE_BREAK * s1
        p = self.reliability(distance)
        return p * s1 + (1.0 - p) * self.means_

    def _correctness(
        self, found: Neighbours, usable: NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """g `[Q, M]`, the mean distance of the neighbours `[Q]`, and how many answered `[Q, M]`.

        Args:
            found: more neighbours than k where some are not usable.
            usable: `[Q, N]` which of them count; all when not given.
        """
        chosen = np.ones(found.index.shape, np.bool_) if usable is None else usable
        chosen = chosen & (np.cumsum(chosen, axis=1) <= self.k)
        n_queries, n_models = len(chosen), len(self.means_)
        total, count = np.zeros((n_queries, n_models)), np.zeros((n_queries, n_models))
        step = max(1, CELLS_AT_ONCE // max(1, chosen.shape[1] * n_models))
        for start in range(0, n_queries, step):
            part = slice(start, start + step)
            outcomes = self.outcomes_[found.index[part]]
            known = np.isfinite(outcomes) & chosen[part, :, None]
            total[part] = np.where(known, outcomes, 0.0).sum(axis=1)
            count[part] = known.sum(axis=1)
        correct = np.where(count > 0, total / np.maximum(count, 1.0), self.means_)
        number = chosen.sum(axis=1)
        away = np.where(chosen, 1.0 - found.similarity, 0.0).sum(axis=1) / np.maximum(number, 1)
        return correct, np.where(number > 0, away, 1.0), count

    def _reliability(
        self, inputs: QueryInputs, quality: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Distance `[2C]` and share of right predictions `[2C, M]`, of and beside each dataset."""
        tasks = self._tasks(inputs)
        of_reference = np.full(inputs.n_references, -1, np.intp)
        rows = inputs.reference >= 0
        of_reference[inputs.reference[rows]] = tasks[rows]
        found = inputs.neighbours
        there = of_reference[found.index] >= 0
        elsewhere = there & (of_reference[found.index] != tasks[:, None])
        known = np.isfinite(quality)
        owner = np.eye(int(tasks.max()) + 1)[tasks]
        answered, size = owner.T @ known, owner.sum(axis=0)
        distances, shares = [], []
        for usable in (there, elsewhere):
            correct, distance, _ = self._correctness(found, usable)
            right = known & ((correct > 0.5) == (quality > 0.5))
            distances.append(owner.T @ distance / size)
            # Half a right and half a wrong answer keep tiny datasets from sounding certain.
            shares.append((owner.T @ right + 0.5) / (answered + 1.0))
        return np.concatenate(distances), np.concatenate(shares)

    def _tasks(self, inputs: QueryInputs) -> NDArray[np.intp]:
        if inputs.logged is not None:
            names, tasks = np.unique(inputs.logged.datasets, return_inverse=True)
            if len(names) > 1:
                return np.asarray(tasks, np.intp)
        count = worthwhile_count(CLUSTERS, len(inputs))
        centers = cluster_centers(inputs.vectors, count, self.seed)
        owner = memberships(inputs.vectors, centers, 1).argmax(axis=1)
        # Clusters that came out empty must not count as datasets.
        return np.asarray(np.unique(owner, return_inverse=True)[1], np.intp)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Outcomes of the references, means, and the points of the reliability curve."""
        return super().get_state() | self.link_.arrays()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.link_ = ScoreLink.from_arrays(arrays)


def above_half(correct: FloatArray) -> FloatArray:
    """1 where a model is expected to be right more often than not, else 0, of the same shape."""
    return np.asarray(correct > 0.5, np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class ShnitzerRouter(EmbeddedRouter):
    """One model for a task, by the score S1, S2 or S3 of its queries.

    Args:
        score: `S1` (mean predicted correctness), `S2` (share of queries above one half) or `S3`
            (S1 shrunk to the model's mean as far as the predictions are unreliable there).
        k: neighbours.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "shnitzer"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 3

    score: str = "S1"
    k: int = 20

    def score_task(self, texts: Sequence[str]) -> FloatArray:
        """The score of each model on the queries of one task together, `[M]`.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no texts, or something that is no list of strings.
        """
        self._require_fitted()
        if not len(texts):
            raise RouterError("a task has at least one query; texts is empty")
        estimator = self.estimators_["shnitzer"]
        assert isinstance(estimator, ShnitzerEstimator)
        return estimator.score_task(self._inputs(texts))[self.kept_]

    def route_task(self, texts: Sequence[str]) -> str:
        """The model for all queries of one task: the one of highest score, the first of ties.

        Raises:
            NotFittedError: before `fit`.
            RouterError: no texts, or something that is no list of strings.
        """
        scores = self.score_task(texts)
        return self.models_[int(scores.argmax())]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.score not in SCORES:
            raise RouterError(f"score is {self.score!r}, expected one of {list(SCORES)}")
        if self.k < 1:
            raise RouterError(f"k is {self.k}, expected 1 or more")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"shnitzer": ShnitzerEstimator(score=self.score, k=self.k, seed=self.seed)}
