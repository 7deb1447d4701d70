"""The contract of the embedding room: texts in, unit vectors out.

Shape letters: Q queries (texts), D embedding width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.errors import WyeError

Vectors = NDArray[np.float32]


class EmbedError(WyeError):
    """Texts could not be embedded; the message says what was given and what to do."""


class Embedder(ABC):
    """Turns texts into vectors of unit length.

    Attributes:
        name: identity of the vectors. Two embedders of one name give the same vectors, so it
            carries version and parameters; caches and saved routers compare it.
        spec: the string from which `wye.embed.get_embedder` builds this embedder again.
        batch_size: texts handed to `_vectors` at once.
        spent_usd: what this embedder has cost since it was built.

    A subclass sets them, gives `dim`, and turns one batch into vectors in `_vectors`; checks,
    batches, the progress bar and the unit length come from here.
    """

    name: str
    spec: str
    batch_size: int = 1024
    spent_usd: float = 0.0

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of the vectors."""

    @abstractmethod
    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        """Vectors `[Q, D]` of one non-empty batch, of any length; a zero row for no content."""

    def fit(self, texts: Sequence[str]) -> Self:
        """Adapt to a corpus. Embedders that learn nothing return themselves unchanged."""
        del texts
        return self

    def reads_whole(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """`[Q]` whether the vector of a text is made of all of it; encoders with a window cut."""
        return np.ones(len(texts), np.bool_)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What `fit` learned."""
        return {}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        if arrays:
            raise EmbedError(f"embedder {self.name} learns nothing, but was given {list(arrays)}")

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """Vectors of `texts`, each of length one; the zero vector for a text without content.

        Args:
            texts: Q strings.
            progress: show a progress bar while it runs.

        Returns:
            `[Q, D]` float32.

        Raises:
            EmbedError: `texts` is a single string, holds something else than strings, or the
                vectors came out wrong.
        """
        texts = check_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        if len(texts) <= self.batch_size and not progress:
            return self._unit(texts)
        from rich.progress import track

        starts = range(0, len(texts), self.batch_size)
        bar = track(starts, description=f"embedding ({self.name})", disable=not progress)
        return np.concatenate([self._unit(texts[i : i + self.batch_size]) for i in bar])

    def _unit(self, texts: Sequence[str]) -> Vectors:
        vectors = np.asarray(self._vectors(texts), np.float32)
        if vectors.ndim != 2 or vectors.shape[0] != len(texts):
            raise EmbedError(
                f"embedder {self.name} returned shape {vectors.shape} for {len(texts)} texts, "
                "expected [Q, D]"
            )
        length: Vectors = np.sqrt(np.einsum("qd,qd->q", vectors, vectors))
        # In float64 the sum of float32 lengths is finite exactly where all of them are.
        if not math.isfinite(np.add.reduce(length, dtype=np.float64)):
            raise EmbedError(f"embedder {self.name} returned NaN, infinite or overflowing values")
        unit: Vectors = vectors / (length + (length == 0))[:, None]
        return unit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def check_texts(texts: Sequence[str]) -> list[str]:
    """`texts` as a list of strings that can be encoded; a lone surrogate becomes a question mark.

    Raises:
        EmbedError: it is a single string, or an entry is no string.
    """
    if isinstance(texts, str | bytes):
        raise EmbedError(
            f"expected a sequence of strings, got the single {type(texts).__name__} "
            f"{texts[:40]!r}; write [text]"
        )
    listed = list(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise EmbedError(
                f"text {i} is {text!r} of type {type(text).__name__}, expected a string"
            )
        if not text.isascii():
            listed[i] = text.encode("utf-8", "replace").decode("utf-8")
    return listed
