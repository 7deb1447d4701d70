"""Several embedders side by side in one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import Embedder, EmbedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class JoinedEmbedder(Embedder):
    """The vectors of several embedders in a row; the similarity is the mean of theirs.

    Args:
        parts: the embedders, each of which counts the same whatever its width.

    Example:
        >>> from wye.embed import get_embedder
        >>> get_embedder("static+tfidf").dim
        768
    """

    def __init__(self, parts: Sequence[Embedder]) -> None:
        if len(parts) < 2:
            raise EmbedError(f"expected two embedders or more to join, got {list(parts)}")
        self.parts = list(parts)
        self.spec = "+".join(p.spec for p in self.parts)
        self.batch_size = min(p.batch_size for p in self.parts)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Identity of the vectors: those of the parts."""
        return " + ".join(p.name for p in self.parts)

    @property
    def spent_usd(self) -> float:  # type: ignore[override]
        """What the parts have cost."""
        return sum(p.spent_usd for p in self.parts)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return sum(p.dim for p in self.parts)

    def fit(self, texts: Sequence[str]) -> Self:
        """Adapt every part to a corpus."""
        for part in self.parts:
            part.fit(texts)
        return self

    def reads_whole(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """`[Q]` whether every part reads the whole of a text."""
        whole = np.ones(len(texts), np.bool_)
        for part in self.parts:
            whole &= part.reads_whole(texts)
        return whole

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What the parts learned."""
        return {f"{i}.{k}": v for i, p in enumerate(self.parts) for k, v in p.get_state().items()}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the parts."""
        for i, part in enumerate(self.parts):
            prefix = f"{i}."
            part.set_state(
                {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            )

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        return np.concatenate([p.embed(texts) for p in self.parts], axis=1)
