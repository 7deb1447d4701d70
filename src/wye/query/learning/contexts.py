"""Contexts: what a bandit reads of a query. Nothing, or a short vector of its embedding.

A reader turns texts and their vectors into contexts `[Q, D]` without changing anything, and may
learn from the queries that it is shown (`observe` one by one, `fit` on a log). The discrete context
of GreenServ is in `wye.query.learning.discrete_context`.

Shape letters: Q queries, D context width, E embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

Task = str | None


class ContextReader(ABC):
    """Reads contexts of constant width."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, after `fit` if that is called at all."""

    def read(self, texts: Sequence[str]) -> FloatArray:
        """`[Q, *]` what the texts say beside their vectors; nothing by default."""
        return np.zeros((len(texts), 0))

    @abstractmethod
    def contexts(
        self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]
    ) -> FloatArray:
        """Contexts `[Q, D]` of vectors `[Q, E]`, what `read` gave, and tasks where known."""

    def observe(self, vector: NDArray[np.float32]) -> None:  # noqa: B027
        """Learn from one more query `[E]`, after its context was taken."""

    def fit(  # noqa: B027
        self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]
    ) -> None:
        """Learn from the queries of a log, whose tasks are known."""

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays."""
        return {}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027
        """Restore what `get_state` returned."""


class NoContext(ContextReader):
    """The constant 1: every query is the same."""

    @property
    def width(self) -> int:
        """1."""
        return 1

    def contexts(
        self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]
    ) -> FloatArray:
        """Ones `[Q, 1]`."""
        del read, tasks
        return np.ones((len(vectors), 1))


class EmbeddingContext(ContextReader):
    """The embedding in fewer dimensions, and a constant 1.

    Before any data a random projection (Johnson and Lindenstrauss 1984) with a fixed seed; `fit`
    puts the principal axes of the log in its place. The projected part has length 1, so that the
    bonus of an arm never tried is the same for every query.

    Args:
        embedding: E.
        width: dimensions kept; E where that is smaller.
        seed: of the random projection.

    Raises:
        RouterError: a width below 1.
    """

    def __init__(self, embedding: int, width: int, seed: int) -> None:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise RouterError(f"width is {width!r}, expected an integer of at least 1")
        kept = min(width, embedding)
        generator = np.random.default_rng(seed)
        self.axes = generator.normal(size=(embedding, kept)) / np.sqrt(kept)
        self.center = np.zeros(embedding)

    @property
    def width(self) -> int:
        """Dimensions kept, and one."""
        return int(self.axes.shape[1]) + 1

    def contexts(
        self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]
    ) -> FloatArray:
        """`[Q, D]`; the zero vector stays zero beside its constant."""
        del read, tasks
        # A product of one row is summed in another order than that of many: sums by row agree.
        projected = np.einsum("qe,ed->qd", vectors - self.center, self.axes)
        length = np.sqrt(np.einsum("qd,qd->q", projected, projected))
        unit = projected / np.maximum(length, 1e-12)[:, None]
        return np.concatenate([unit, np.ones((len(vectors), 1))], axis=1)

    def fit(self, vectors: NDArray[np.float32], read: FloatArray, tasks: Sequence[Task]) -> None:
        """Take the principal axes of at least twice as many vectors as there are axes."""
        del read, tasks
        kept = self.axes.shape[1]
        if len(vectors) < 2 * kept:
            return
        self.center = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - self.center
        _, axes = np.linalg.eigh(centred.T @ centred)
        self.axes = np.ascontiguousarray(axes[:, ::-1][:, :kept])

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The projection."""
        return {"axes": self.axes, "center": self.center}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.axes, self.center = np.array(arrays["axes"]), np.array(arrays["center"])
