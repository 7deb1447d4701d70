"""How new a query is to a router that learns from a stream: the first queries are its references.

Shape letters: Q queries, R references, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray


class Familiarity:
    """Keeps the first `most` vectors it is shown, and how near each lies to another of them.

    Args:
        most: R at most.
        width: D.
    """

    def __init__(self, most: int, width: int) -> None:
        self.most = most
        self.references = np.zeros((0, width), np.float32)
        self.closest = np.zeros(0, np.float32)

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Take vectors `[Q, D]` as references while there is room."""
        fresh = vectors[: max(0, self.most - len(self.references))]
        if not len(fresh):
            return
        own = fresh @ fresh.T
        np.fill_diagonal(own, -1.0)
        across = fresh @ self.references.T
        nearest = np.maximum(own.max(axis=1), across.max(axis=1, initial=-1.0))
        older = np.maximum(self.closest, across.max(axis=0, initial=-1.0))
        self.references = np.concatenate([self.references, fresh])
        self.closest = np.concatenate([older, nearest]).astype(np.float32)

    def novelty(self, vectors: NDArray[np.float32]) -> FloatArray:
        """`[Q]` share of references that lie nearer to another one than the query does to any."""
        if len(self.references) < 2:
            return np.ones(len(vectors))
        nearest = (vectors @ self.references.T).max(axis=1)
        order = np.sort(self.closest)
        farther = np.searchsorted(order, nearest + np.float32(1e-6), side="left")
        return np.asarray((order.size - farther) / order.size, np.float64)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The references and their distances."""
        return {"references": self.references, "closest": self.closest}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.references = np.array(arrays["references"])
        self.closest = np.array(arrays["closest"])
