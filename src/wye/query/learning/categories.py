"""The category of a query as an intermediate step: a classifier, and a quality table beside it.

Which model is best on one query is nearly noise to learn from: many models tie, and neighbours in
the embedding get different labels. Categories of queries do cluster, so a classifier learns them
well, and a small table says what each model does in each (Composition of Experts, 2412.01868).

    g(x)          = posterior of the categories, by the k nearest labelled queries or a softmax head
    A[c, m]       = mean_m + sum_{q in c} (y_qm - mean_m) / (shrinkage + n_cm)
    quality[q, m] = sum_c g(x_q)_c A[c, m]

A category is the name of the dataset that a training query came from. It is a label to learn: a new
query has none.

Shape letters: Q queries, M models, C categories, D columns, K neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.group_table import GroupJudgement, group_table
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.label_heads import LabelHead, label_head, one_hot
from wye.query.learning.named_arrays import prefixed, under

GENERAL = "general"
MOST_CATEGORIES = 256


class CategoryEstimator(QualityEstimator):
    """Category posterior of the embedding, times the shrunk table of categories and models.

    Args:
        head: `linear` (softmax regression), `mlp` or `knn` (votes of neighbours).
        k: neighbours that vote, for `knn`.
        shrinkage: weight of a model's overall mean in each cell of the table, in queries.
        least: categories with fewer queries are learned as one, `general`.
        with_features: whether the head reads the text features beside the embedding.
        seed: of the rows that a head learns from where there are many.
    """

    def __init__(
        self,
        *,
        head: str = "linear",
        k: int = 20,
        shrinkage: float = 20.0,
        least: int = 5,
        with_features: bool = True,
        seed: int = 0,
    ) -> None:
        self.head = head
        self.k = k
        self.shrinkage = shrinkage
        self.least = least
        self.with_features = with_features
        self.seed = seed

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.k if self.head == "knn" else 0

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn the categories of the training queries and fill the table.

        Raises:
            RouterError: the inputs do not say which dataset each query belongs to.
        """
        self.names_, labels = self._category_labels(inputs)
        means = model_means(quality)
        self.mean_std_ = mean_std(quality, means)
        owner = one_hot(labels, len(self.names_))
        self.table_, self.table_std_ = group_table(owner, quality, means, self.shrinkage)
        self._judge = GroupJudgement.of(self.table_, self.table_std_, self.mean_std_)
        self.head_: LabelHead = label_head(self.head, k=self.k, seed=self.seed)
        self.head_.fit(inputs, self._columns(inputs), labels, len(self.names_))
        return self

    def posterior(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, C]` probability of each category of `names_`."""
        return self.head_.posterior(inputs, self._columns(inputs))

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        return self._judge(self.posterior(inputs))

    def _category_labels(self, inputs: QueryInputs) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        return category_labels(inputs, least=self.least)

    def _columns(self, inputs: QueryInputs) -> NDArray[np.float32]:
        return inputs.columns if self.with_features else inputs.vectors

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The classifier, the names of the categories and the table."""
        own: dict[str, NDArray[Any]] = {
            "names": names_to_array(self.names_),
            "table": self.table_,
            "table_std": self.table_std_,
            "mean_std": self.mean_std_,
        }
        return own | prefixed("head.", self.head_.get_state())

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.names_ = names_from_array(arrays["names"])
        self.table_, self.table_std_ = arrays["table"], arrays["table_std"]
        self.mean_std_ = arrays["mean_std"]
        self._judge = GroupJudgement.of(self.table_, self.table_std_, self.mean_std_)
        self.head_ = label_head(self.head, k=self.k, seed=self.seed)
        self.head_.set_state(under("head.", arrays))


def category_labels(
    inputs: QueryInputs, *, least: int = 1, most: int = MOST_CATEGORIES
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Names of the C categories of training queries, sorted, and which each query `[Q]` has.

    Args:
        inputs: training queries.
        least: categories with fewer queries become one, `general`.
        most: of more categories the most frequent stay, the others become `general`.

    Raises:
        RouterError: the inputs do not say which dataset each query belongs to.
    """
    if inputs.logged is None:
        raise RouterError(
            "these inputs do not say which dataset each query belongs to; categories are learned "
            "from the column `dataset` of training queries"
        )
    found, counts = np.unique(inputs.logged.datasets.astype(str), return_counts=True)
    kept = found[(counts >= least) & (np.argsort(np.argsort(-counts, kind="stable")) < most)]
    datasets = inputs.logged.datasets.astype(str)
    if not np.isin(datasets, kept).all():
        datasets = np.where(np.isin(datasets, kept), datasets, GENERAL)
    names, labels = np.unique(datasets, return_inverse=True)
    return tuple(str(n) for n in names), labels.astype(np.intp)


def names_to_array(names: Sequence[str]) -> NDArray[np.uint8]:
    """Names as an array that can be stored beside others."""
    return np.frombuffer(json.dumps(list(names)).encode(), np.uint8).copy()


def names_from_array(array: NDArray[Any]) -> tuple[str, ...]:
    """The names that `names_to_array` stored."""
    return tuple(json.loads(np.asarray(array, np.uint8).tobytes()))
