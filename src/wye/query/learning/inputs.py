"""What a quality estimator reads of a batch of queries: vectors, features, nearest references.

Shape letters: Q queries, D embedding width, F features, R references, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wye.query.learning.ridge import Design

CELLS_AT_ONCE = 4_000_000
# Similarities of one query that are compared by their maximum before any is sorted.
GROUPS = 32
# Standardised features against unit vectors: together they weigh about as much as the embedding.
FEATURE_SCALE = 0.15


@dataclass(frozen=True)
class Neighbours:
    """The nearest references of Q queries, nearest first.

    Attributes:
        index: `[Q, K]` row among the references.
        similarity: `[Q, K]` cosine similarity, -1 to 1.
    """

    index: NDArray[np.intp]
    similarity: NDArray[np.float32]


@dataclass(frozen=True)
class Logged:
    """What a log says of training queries beside quality. Nothing of it is known of a new query.

    Attributes:
        datasets: `[Q]` name of the set that a query belongs to: a label to learn, never an input.
        cost: `[Q, M]` USD of each answer, NaN where unknown.
        names: of the M models.
        params_b: `[M]` billions of parameters, NaN where not public.
    """

    datasets: NDArray[np.str_]
    cost: NDArray[np.float64]
    names: tuple[str, ...]
    params_b: NDArray[np.float64]

    def rows(self, rows: NDArray[np.intp]) -> Logged:
        """Some of the queries; the models stay whole."""
        return Logged(self.datasets[rows], self.cost[rows], self.names, self.params_b)


@dataclass(frozen=True)
class QueryInputs:
    """Q queries as an estimator sees them.

    Attributes:
        texts: Q queries, for estimators that read words.
        vectors: `[Q, D]` unit vectors of the embedder.
        features: `[Q, F]` text features, standardised on the training queries.
        neighbours: nearest references, a training query itself left out.
        reference: `[Q]` which reference a training query is, -1 for none.
        n_references: R.
        logged: what else is known of training queries; None where an estimate is asked for.
    """

    texts: tuple[str, ...]
    vectors: NDArray[np.float32]
    features: NDArray[np.float32]
    neighbours: Neighbours
    reference: NDArray[np.intp]
    n_references: int
    logged: Logged | None = None

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @cached_property
    def columns(self) -> NDArray[np.float32]:
        """`[Q, D + F]` the embedding and the scaled text features side by side."""
        return np.concatenate(
            [self.vectors, self.limited_features * np.float32(FEATURE_SCALE)], axis=1
        )

    @cached_property
    def limited_features(self) -> NDArray[np.float32]:
        """`[Q, F]` the features, none beyond four standard deviations."""
        return np.minimum(np.maximum(self.features, np.float32(-4.0)), np.float32(4.0))

    @cached_property
    def design(self) -> Design:
        """`columns` to regress on; all estimators that do share its decompositions."""
        return Design(self.columns)

    def rows(self, rows: NDArray[np.intp]) -> QueryInputs:
        """Some of the queries; the references stay whole."""
        return QueryInputs(
            texts=tuple(self.texts[i] for i in rows.tolist()),
            vectors=self.vectors[rows],
            features=self.features[rows],
            neighbours=Neighbours(self.neighbours.index[rows], self.neighbours.similarity[rows]),
            reference=self.reference[rows],
            n_references=self.n_references,
            logged=None if self.logged is None else self.logged.rows(rows),
        )


def nearest(
    vectors: NDArray[np.float32],
    references: NDArray[np.float32],
    k: int,
    exclude: NDArray[np.intp] | None = None,
) -> Neighbours:
    """The `k` nearest references of each vector, or all where there are fewer.

    Args:
        vectors: `[Q, D]` unit vectors.
        references: `[R, D]` unit vectors.
        k: how many.
        exclude: `[Q]` a reference that does not count for the query, -1 for none. Where given, one
            neighbour fewer than R can be found.
    """
    n_references = references.shape[0]
    k = min(k, n_references - (exclude is not None))
    if len(vectors) == 1 and exclude is None:
        return _nearest_of_one(vectors[0], references, k)
    index = np.empty((len(vectors), k), np.intp)
    similarity = np.empty((len(vectors), k), np.float32)
    step = max(1, CELLS_AT_ONCE // max(1, n_references))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        close = vectors[part] @ references.T
        if exclude is not None:
            rows = np.flatnonzero(exclude[part] >= 0)
            close[rows, exclude[part][rows]] = -2.0
        if k == 1:
            index[part, 0], similarity[part, 0] = close.argmax(axis=1), close.max(axis=1)
            continue
        first = max(0, min(n_references - k, n_references - 1))
        best = np.argpartition(close, first, axis=1)[:, n_references - k :]
        row = np.arange(len(close))[:, None]
        found = close[row, best]
        order = np.lexsort((best, -found), axis=1)
        index[part], similarity[part] = best[row, order], found[row, order]
    return Neighbours(index, similarity)


def _nearest_of_one(
    vector: NDArray[np.float32], references: NDArray[np.float32], k: int
) -> Neighbours:
    """`nearest` of a single vector `[D]`, which is what a decision waits for."""
    # Twice as fast as the row vector times the transposed references.
    close = references @ vector
    if k <= 1:
        best = np.array([close.argmax()][:k], np.intp)
        return Neighbours(best[None], close[best][None])
    width = close.size // GROUPS
    if k <= width:
        # Each of k groups has a member that is at least the k-th largest of the groups' maxima.
        largest = np.maximum.reduce(close[: GROUPS * width].reshape(GROUPS, width), axis=0)
    else:
        largest = close.copy()
    least_at = largest.size - k
    largest.partition(least_at)
    best = (close >= largest[least_at]).nonzero()[0]
    found = close[best]
    # Stable: of equal similarities, the reference that comes first.
    order = (-found).argsort(kind="stable")[:k]
    return Neighbours(best[order][None], found[order][None])
