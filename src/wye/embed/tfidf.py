"""Hashed TF-IDF: words and pairs of words, hashed, weighted by rarity, folded to D dimensions.

Needs no model and no vocabulary, so it never meets an unknown word, whatever the language. Source:
Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009 (signed hashing
keeps inner products unbiased, eq. 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import Embedder, EmbedError, check_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKETS = 2**18


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
        self._idf: NDArray[np.float32] | None = None
        self.name = self._identity()

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn the inverse document frequencies ln((1 + Q) / (1 + Q_term)) + 1 of `texts`."""
        from sklearn.feature_extraction.text import TfidfTransformer

        texts = check_texts(texts)
        if not texts:
            raise EmbedError("TfidfEmbedder.fit was given no texts; it needs at least one")
        transformer = TfidfTransformer(norm=None).fit(self._counts(texts))
        self._idf = np.asarray(transformer.idf_, np.float32)
        self.name = self._identity()
        return self

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What `fit` learned: `idf` `[2**18]`, as indices and values that differ from the rest."""
        if self._idf is None:
            return {}
        rest = self._idf.max()
        seen = np.flatnonzero(self._idf != rest)
        return {"seen": seen, "idf": self._idf[seen], "rest": np.array([rest], np.float32)}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        if not arrays:
            self._idf = None
        else:
            idf = np.full(BUCKETS, arrays["rest"][0], np.float32)
            idf[arrays["seen"]] = arrays["idf"]
            self._idf = idf
        self.name = self._identity()

    def _counts(self, texts: Sequence[str]) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        hasher = HashingVectorizer(
            n_features=BUCKETS, ngram_range=(1, self.ngrams), alternate_sign=False, norm=None
        )
        return hasher.transform(texts)

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        counts = self._counts(texts)
        np.log1p(counts.data, out=counts.data)
        if self._idf is not None:
            counts.data *= self._idf[counts.indices]
        # The bucket decides the sign and the dimension, by bits that do not depend on each other.
        spread = (counts.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
        counts.data *= np.where(spread & np.uint64(1), 1.0, -1.0)
        counts.indices = ((spread >> np.uint64(1)) % np.uint64(self._dim)).astype(np.int32)
        counts.has_canonical_format = False
        folded = type(counts)(
            (counts.data, counts.indices, counts.indptr), shape=(len(texts), self._dim)
        )
        return np.asarray(folded.toarray(), np.float32)

    def _identity(self) -> str:
        digest = "unfitted" if self._idf is None else sha256(self._idf.tobytes()).hexdigest()[:16]
        return f"tfidf:dim={self._dim}:ngrams={self.ngrams}:idf={digest}"
