"""Hashed TF-IDF: words and pairs of words, hashed, weighted by rarity, folded to D dimensions.

Needs no model and no vocabulary, so it never meets an unknown word, whatever the language. Source:
Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009 (signed hashing
keeps inner products unbiased, eq. 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import Embedder, EmbedError
from wye.embed.terms import HashedTerms

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TfidfEmbedder(Embedder):
    """Hashed TF-IDF of words and word pairs.

    Before `fit` every term weighs the same; `fit` learns the inverse document frequencies of a
    corpus. Routers fit it on their training queries.

    Args:
        dim: width D to which the 2**18 hash buckets are folded.
        ngrams: longest run of words that counts as one term.
    """

    def __init__(self, *, dim: int = 512, ngrams: int = 2) -> None:
        if dim < 1 or ngrams < 1:
            raise EmbedError(f"dim is {dim} and ngrams {ngrams}, expected 1 or more of each")
        self._dim = dim
        self.ngrams = ngrams
        self.spec = "tfidf" if (dim, ngrams) == (512, 2) else f"tfidf:{dim},{ngrams}"
        self._terms = HashedTerms(ngrams=ngrams)
        self.name = self._identity()

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn the inverse document frequencies of `texts` (`HashedTerms.fit`)."""
        self._terms.fit(texts)
        self.name = self._identity()
        return self

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What `fit` learned."""
        return self._terms.get_state()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self._terms.set_state(arrays)
        self.name = self._identity()

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        weights = self._terms.weigh(texts)
        # The bucket decides the sign and the dimension, by bits that do not depend on each other.
        buckets = weights.indices.astype(np.uint64)
        spread = (buckets * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
        weights.data *= np.where(spread & np.uint64(1), 1.0, -1.0)
        weights.indices = ((spread >> np.uint64(1)) % np.uint64(self._dim)).astype(np.int32)
        weights.has_canonical_format = False
        folded = type(weights)(
            (weights.data, weights.indices, weights.indptr), shape=(len(texts), self._dim)
        )
        return np.asarray(folded.toarray(), np.float32)

    def _identity(self) -> str:
        return f"tfidf:dim={self._dim}:ngrams={self.ngrams}:idf={self._terms.identity()}"
