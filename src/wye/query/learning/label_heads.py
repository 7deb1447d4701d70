"""Classifiers of an embedded query: from vectors to a probability of each label, by arrays alone.

They learn with scikit-learn and predict in NumPy. Labels may be categories of queries, or the model
that answered best.

Shape letters: Q queries, D columns, C labels, K neighbours, R references, F hidden width.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays

HEADS = ("knn", "linear", "svm", "mlp")
TRAINING_QUERIES = 8192
# Unit vectors have components of about 1/16; heads learn faster on inputs of about 1.
INPUT_SCALE = 8.0


class LabelHead(ABC):
    """Learns the label of a query."""

    @abstractmethod
    def fit(
        self,
        inputs: QueryInputs,
        columns: NDArray[np.float32],
        labels: NDArray[np.intp],
        n_labels: int,
    ) -> Self:
        """Learn from Q queries.

        Args:
            inputs: training queries; heads that vote read which reference each is.
            columns: `[Q, D]` what the other heads read.
            labels: `[Q]` from 0 to `n_labels` - 1; -1 for a query without one.
            n_labels: C; labels that no query has get next to no probability.
        """

    @abstractmethod
    def posterior(self, inputs: QueryInputs, columns: NDArray[np.float32]) -> FloatArray:
        """`[Q, C]` probability of each label."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""


def label_head(kind: str, *, k: int = 20, hidden: int = 64, seed: int = 0) -> LabelHead:
    """A head that has learned nothing yet.

    Args:
        kind: `knn`, `linear`, `svm` or `mlp`.
        k: neighbours that vote, for `knn`.
        hidden: width of the hidden layer, for `mlp`.
        seed: of the rows that are learned from where there are many, and of first weights.

    Raises:
        RouterError: no head has that name.
    """
    if kind == "knn":
        return VotingHead(k)
    if kind in ("linear", "svm"):
        return LinearHead(margin=kind == "svm", seed=seed)
    if kind == "mlp":
        return NetworkHead(hidden, seed)
    raise RouterError(f"head is {kind!r}, expected one of {list(HEADS)}")


def one_hot(labels: NDArray[np.intp], n_labels: int) -> FloatArray:
    """`[Q, C]` with a one at each label; a row of zeros for the label -1."""
    rows = np.zeros((len(labels), n_labels))
    known = np.flatnonzero(labels >= 0)
    rows[known, labels[known]] = 1.0
    return rows


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities `[Q, C]` of logits."""
    weight = np.exp(logits - np.maximum.reduce(logits, axis=1, keepdims=True))
    return np.asarray(weight / np.add.reduce(weight, axis=1, keepdims=True), np.float64)


class VotingHead(KeptArrays, LabelHead):
    """The labels of the k nearest references, each weighted by its cosine similarity."""

    kept: ClassVar[tuple[str, ...]] = ("votes", "prior")

    def __init__(self, k: int) -> None:
        self.k = k

    def fit(
        self,
        inputs: QueryInputs,
        columns: NDArray[np.float32],
        labels: NDArray[np.intp],
        n_labels: int,
    ) -> Self:
        """Remember the label of each reference."""
        rows = np.flatnonzero(inputs.reference >= 0)
        held = np.full(inputs.n_references, -1, np.intp)
        held[inputs.reference[rows]] = labels[rows]
        self.votes_ = one_hot(held, n_labels)
        counts = one_hot(labels, n_labels).sum(axis=0)
        self.prior_ = (counts + 1e-3) / (counts + 1e-3).sum()
        return self

    def posterior(self, inputs: QueryInputs, columns: NDArray[np.float32]) -> FloatArray:
        """Share of each label among the votes; the prior where nobody votes."""
        found = inputs.neighbours
        k = min(self.k, found.index.shape[1])
        weight = np.maximum(found.similarity[:, :k], 1e-6).astype(np.float64)
        votes = (weight[:, None, :] @ self.votes_[found.index[:, :k]])[:, 0]
        # A thousandth of a vote: it decides only where the references of a query have no labels.
        votes = votes + 1e-3 * self.prior_
        return np.asarray(votes / votes.sum(axis=1, keepdims=True), np.float64)


class LinearHead(KeptArrays, LabelHead):
    """A linear classifier: softmax regression, or one linear support vector machine per label."""

    kept: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def __init__(self, *, margin: bool = False, seed: int = 0) -> None:
        self.margin = margin
        self.seed = seed

    def fit(
        self,
        inputs: QueryInputs,
        columns: NDArray[np.float32],
        labels: NDArray[np.intp],
        n_labels: int,
    ) -> Self:
        """Learn the weights; labels that no row has get a logit far below the others."""
        rows = _training_rows(labels, self.seed)
        present = np.unique(labels[rows])
        self.weight_ = np.zeros((columns.shape[1], n_labels))
        self.bias_ = np.full(n_labels, -20.0)
        if present.size == 1:
            self.bias_[present] = 0.0
            return self
        x = columns[rows].astype(np.float64) * INPUT_SCALE
        coef, intercept = (_machine if self.margin else _regression)(x, labels[rows], self.seed)
        if coef.shape[0] == 1:
            coef, intercept = np.vstack([-coef, coef]) / 2, np.array([-1.0, 1.0]) * intercept / 2
        self.weight_[:, present] = coef.T * INPUT_SCALE
        self.bias_[present] = intercept
        return self

    def posterior(self, inputs: QueryInputs, columns: NDArray[np.float32]) -> FloatArray:
        """Softmax of the logits, or of the margins."""
        return softmax(columns @ self.weight_ + self.bias_[None])


class NetworkHead(KeptArrays, LabelHead):
    """One hidden layer of rectified units under a softmax."""

    kept: ClassVar[tuple[str, ...]] = ("hidden_weight", "hidden_bias", "weight", "bias")

    def __init__(self, hidden: int, seed: int) -> None:
        self.hidden = hidden
        self.seed = seed

    def fit(
        self,
        inputs: QueryInputs,
        columns: NDArray[np.float32],
        labels: NDArray[np.intp],
        n_labels: int,
    ) -> Self:
        """Learn both layers, stopping early where a tenth of the rows can be held out."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        rows = _training_rows(labels, self.seed)
        present, counts = np.unique(labels[rows], return_counts=True)
        self.hidden_weight_ = np.zeros((columns.shape[1], self.hidden), np.float32)
        self.hidden_bias_ = np.zeros(self.hidden, np.float32)
        self.weight_ = np.zeros((self.hidden, n_labels))
        self.bias_ = np.full(n_labels, -20.0)
        if present.size == 1:
            self.bias_[present] = 0.0
            return self
        stops = counts.min() >= 2 and rows.size >= 20 * present.size
        network = MLPClassifier(
            (self.hidden,),
            alpha=1e-2,
            max_iter=60,
            early_stopping=bool(stops),
            n_iter_no_change=5,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # The number of epochs is a bound on time, not a promise of convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(columns[rows] * np.float32(INPUT_SCALE), labels[rows])
        self.hidden_weight_ = (network.coefs_[0] * INPUT_SCALE).astype(np.float32)
        self.hidden_bias_ = network.intercepts_[0].astype(np.float32)
        last, bias = network.coefs_[1].astype(np.float64), network.intercepts_[1]
        if last.shape[1] == 1:
            last, bias = np.hstack([-last, last]) / 2, np.array([-1.0, 1.0]) * bias / 2
        self.weight_[:, present], self.bias_[present] = last, bias
        return self

    def posterior(self, inputs: QueryInputs, columns: NDArray[np.float32]) -> FloatArray:
        """Softmax of the last layer."""
        hidden = np.maximum(columns @ self.hidden_weight_ + self.hidden_bias_, 0.0)
        return softmax(hidden @ self.weight_ + self.bias_)


def _training_rows(labels: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    rows = np.flatnonzero(labels >= 0)
    if not rows.size:
        raise RouterError("no query has a label to learn from")
    return np.sort(np.random.default_rng(seed).permutation(rows)[:TRAINING_QUERIES])


def _regression(x: FloatArray, labels: NDArray[np.intp], seed: int) -> tuple[Any, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=REGRESSION_C, max_iter=60, tol=1e-3)
    with warnings.catch_warnings():
        # Weights near the optimum rank as well as the optimum does.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels)
    return model.coef_, model.intercept_


def _machine(x: FloatArray, labels: NDArray[np.intp], seed: int) -> tuple[Any, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=MACHINE_C, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels)
    return model.coef_, model.intercept_


REGRESSION_C = 0.03
MACHINE_C = 0.01
