"""One embedding of a text for everybody: router, guard and watch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder
from wye.embed.base import Vectors
from wye.query.base import QueryRouter

_KEPT = 64


class SharedEmbedder(Embedder):
    """An embedder that remembers the vectors of the texts that it was last given one by one.

    Args:
        inner: makes the vectors.
    """

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner
        self.name, self.spec, self.batch_size = inner.name, inner.spec, inner.batch_size
        self._known: dict[str, Vectors] = {}

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.inner.dim

    @property
    def spent_usd(self) -> float:  # type: ignore[override]
        """What the inner embedder has cost."""
        return self.inner.spent_usd

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """See `Embedder`; a single text that is remembered costs nothing."""
        if len(texts) != 1 or isinstance(texts, str):
            return self.inner.embed(texts, progress=progress)
        found = self._known.get(texts[0])
        if found is None:
            found = self.inner.embed(texts, progress=progress)
            # Threads share this; popping what another has popped is no harm.
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known), ""), None)
            self._known[texts[0]] = found
        return found

    def known(self, text: str) -> Vectors | None:
        """`[1, D]` of a text that was embedded lately; None where it was not."""
        return self._known.get(text)

    def reads_whole(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """See `Embedder`."""
        return self.inner.reads_whole(texts)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What the inner embedder learned."""
        return self.inner.get_state()

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        return self.inner.embed(texts)


def sharing(router: QueryRouter | None) -> tuple[QueryRouter | None, SharedEmbedder | None]:
    """The same router with an embedder that others can share; None where it has none."""
    inner = getattr(router, "embedder_", None)
    if router is None or not isinstance(inner, Embedder):
        return router, None
    shared = inner if isinstance(inner, SharedEmbedder) else SharedEmbedder(inner)
    same = copy.copy(router)
    same.embedder_ = shared  # type: ignore[attr-defined]
    return same, shared
