"""A table of what each model does on each category, read at the most probable one or at `general`.

    A[c, m] = mean_m + sum_{q in c} (y_qm - mean_m) / (20 + n_cm)
    row(x)  = general where x is uncertain, else argmax_c g(x)_c

Source: Composition of Experts, arXiv 2412.01868; the measures of uncertainty and their thresholds
are ours (`wye.query.composition_of_experts`).

Shape letters: Q queries, M models, C categories, K neighbours, D embedding width, U unlabelled
queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.categories import GENERAL, CategoryEstimator
from wye.query.learning.estimator import mean_std
from wye.query.learning.group_table import group_table
from wye.query.learning.inputs import QueryInputs, nearest
from wye.query.learning.joining import PlacingEstimator
from wye.query.learning.label_heads import label_head, one_hot

MEASURES = ("distance", "entropy", "probability", "none")
FAMILIAR_QUANTILE = 0.05
GRID = 20
HELD_OUT = 4
AGREEING = 10


class CompositionEstimator(CategoryEstimator, PlacingEstimator):
    """The row of the most probable category, or of `general` where the query is uncertain.

    Args:
        head, k, shrinkage, seed: see `CategoryEstimator`.
        uncertainty: `distance`, `entropy`, `probability` or `none`.
        threshold: uncertainty above which a query falls back; learned when None.
        pool: `[U, D]` vectors of queries without label or outcome, to learn the head from too.
    """

    def __init__(
        self,
        *,
        head: str = "knn",
        k: int = 20,
        shrinkage: float = 20.0,
        uncertainty: str = "distance",
        threshold: float | None = None,
        pool: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            head=head, k=k, shrinkage=shrinkage, least=1, with_features=False, seed=seed
        )
        self.uncertainty = uncertainty
        self.threshold = threshold
        self.pool = pool

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn the categories, fill the table, and choose the threshold where none is given."""
        threshold = self.threshold
        if threshold is None and self.uncertainty in ("entropy", "probability"):
            threshold = self._held_out_threshold(inputs, quality)
        self._learn(inputs, quality)
        spread = self._uncertainty(inputs, self.posterior(inputs))
        if threshold is None:
            threshold = float(np.quantile(spread, 1.0 - FAMILIAR_QUANTILE))
        self.threshold_ = threshold
        # Traffic of each row: queries of the category, and for `general` those that fall back.
        owner = np.bincount(self._labels, minlength=len(self.names_)).astype(np.float64)
        owner[self.general] += float((spread > threshold).sum())
        self.traffic_ = owner
        return self

    @property
    def general(self) -> int:
        """Row of the table for uncertain queries."""
        return self.names_.index(GENERAL)

    def rows(self, inputs: QueryInputs) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
        """Row of the table `[Q]`, posterior `[Q, C]` and uncertainty `[Q]` of each query."""
        posterior = self.posterior(inputs)
        spread = self._uncertainty(inputs, posterior)
        row = np.where(spread > self.threshold_, self.general, posterior.argmax(axis=1))
        return row, posterior, spread

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        row, _, _ = self.rows(inputs)
        return self.table_[row], np.sqrt(self.table_std_[row] ** 2 + self.mean_std_**2)

    @property
    def levels(self) -> FloatArray:
        """Expected quality of each model averaged over the training queries, `[M]`."""
        share = self.traffic_ / self.traffic_.sum()
        return np.asarray(share @ self.table_, np.float64)

    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add the column of a model to the table."""
        column, mean = quality[:, None], np.array([quality.mean()])
        # By category alone: what falls back has one too, and `general` gets the mean.
        owner = one_hot(self.posterior(inputs).argmax(axis=1), len(self.names_))
        table, spread = group_table(owner, column, mean, self.shrinkage)
        self.table_ = np.concatenate([self.table_, table], axis=1)
        self.table_std_ = np.concatenate([self.table_std_, spread], axis=1)
        self.mean_std_ = np.append(self.mean_std_, mean_std(column, mean))
        return self

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The classifier, the table, the threshold and the traffic."""
        own = {"threshold": np.array([self.threshold_]), "traffic": self.traffic_}
        return super().get_state() | own

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.threshold_, self.traffic_ = float(arrays["threshold"][0]), arrays["traffic"]

    def _learn(self, inputs: QueryInputs, quality: FloatArray) -> None:
        super().fit(inputs, quality)
        if self.pool is not None and len(self.pool) and self.head != "knn":
            self._learn_pool(inputs)

    def _learn_pool(self, inputs: QueryInputs) -> None:
        """Fit the head again, on the unlabelled queries whose neighbours agree as well."""
        assert self.pool is not None
        labels = self._labels
        guessed = agreed_labels(inputs.vectors, labels, self.pool)
        self.head_ = label_head(self.head, k=self.k, seed=self.seed)
        columns = np.concatenate([inputs.vectors, self.pool])
        self.head_.fit(inputs, columns, np.concatenate([labels, guessed]), len(self.names_))

    def _category_labels(self, inputs: QueryInputs) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        names, labels = super()._category_labels(inputs)
        self._labels = labels
        if GENERAL in names:
            return names, labels
        # A category without queries: its row of the table is the mean of each model.
        return (*names, GENERAL), labels

    def _uncertainty(self, inputs: QueryInputs, posterior: FloatArray) -> FloatArray:
        if self.uncertainty == "entropy":
            bits = -(posterior * np.log(np.maximum(posterior, 1e-300))).sum(axis=1)
            return np.asarray(bits / np.log(max(2, posterior.shape[1])), np.float64)
        if self.uncertainty == "probability":
            return np.asarray(1.0 - posterior.max(axis=1), np.float64)
        if self.uncertainty == "none" or not inputs.neighbours.similarity.shape[1]:
            return np.zeros(len(inputs))
        return np.asarray(1.0 - inputs.neighbours.similarity[:, : self.k].mean(axis=1), np.float64)

    def _held_out_threshold(self, inputs: QueryInputs, quality: FloatArray) -> float:
        """The threshold of the grid under which held-out queries were routed best."""
        order = np.random.default_rng(self.seed).permutation(len(inputs))
        held_out, rest = np.sort(order[::HELD_OUT]), np.sort(np.delete(order, np.s_[::HELD_OUT]))
        if not rest.size:
            return 1.0
        self._learn(inputs.rows(rest), quality[rest])
        part = inputs.rows(held_out)
        posterior = self.posterior(part)
        spread = self._uncertainty(part, posterior)
        best, chosen = -np.inf, 1.0
        # From the largest down: where the fallback gains nothing, it stays rare.
        for threshold in np.linspace(1.0, 1.0 / GRID, GRID).tolist():
            row = np.where(spread > threshold, self.general, posterior.argmax(axis=1))
            picked = quality[held_out, self.table_[row].argmax(axis=1)]
            value = float(picked[np.isfinite(picked)].mean()) if np.isfinite(picked).any() else 0.0
            if value > best:
                best, chosen = value, threshold
        return chosen


def agreed_labels(
    vectors: NDArray[np.float32],
    labels: NDArray[np.intp],
    pool: NDArray[np.float32],
    *,
    k: int = AGREEING,
) -> NDArray[np.intp]:
    """Label `[U]` of each query of a pool on which its k nearest labelled queries all agree, or -1.

    Args:
        vectors: `[Q, D]` unit vectors of labelled queries.
        labels: `[Q]` their labels.
        pool: `[U, D]` unit vectors of the others.
        k: neighbours that must agree; all where there are fewer.
    """
    votes = labels[nearest(pool, vectors, min(k, len(vectors))).index]
    agreed = (votes == votes[:, :1]).all(axis=1)
    return np.where(agreed, votes[:, 0], -1).astype(np.intp)
