"""Weighted terms of a text: words and runs of words, hashed into buckets, weighted by rarity.

Needs no vocabulary, so it never meets an unknown word, whatever the language. The rows are sparse;
`TfidfEmbedder` folds them into a vector, a regression on words reads them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wye.embed.base import EmbedError, check_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


class HashedTerms:
    """Logarithmic counts of hashed terms times inverse document frequencies, `[Q, buckets]` sparse.

    Before `fit` every term weighs the same.

    Args:
        buckets: into which terms are hashed.
        ngrams: longest run of words that counts as one term.

    Raises:
        EmbedError: an argument below 1.
    """

    def __init__(self, *, buckets: int = 2**18, ngrams: int = 2) -> None:
        if buckets < 1 or ngrams < 1:
            raise EmbedError(
                f"buckets is {buckets} and ngrams {ngrams}, expected 1 or more of each"
            )
        self.buckets = buckets
        self.ngrams = ngrams
        self._idf: NDArray[np.float32] | None = None

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn the inverse document frequencies ln((1 + Q) / (1 + Q_term)) + 1 of `texts`.

        Raises:
            EmbedError: no texts.
        """
        from sklearn.feature_extraction.text import TfidfTransformer

        texts = check_texts(texts)
        if not texts:
            raise EmbedError("no texts to learn the rarity of terms from; it needs at least one")
        transformer = TfidfTransformer(norm=None).fit(self._counts(texts))
        self._idf = np.asarray(transformer.idf_, np.float32)
        return self

    def weigh(self, texts: Sequence[str]) -> csr_matrix:
        """`[Q, buckets]` weights of the terms of each text, sparse, rows of any length."""
        counts: csr_matrix = self._counts(texts)
        np.log1p(counts.data, out=counts.data)
        if self._idf is not None:
            counts.data *= self._idf[counts.indices]
        return counts

    def identity(self) -> str:
        """What distinguishes what was learned from other corpora."""
        return "unfitted" if self._idf is None else sha256(self._idf.tobytes()).hexdigest()[:16]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """What `fit` learned: indices of the terms seen, their `idf`, and that of the rest."""
        if self._idf is None:
            return {}
        rest = self._idf.max()
        seen = np.flatnonzero(self._idf != rest)
        return {"seen": seen, "idf": self._idf[seen], "rest": np.array([rest], np.float32)}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        if not arrays:
            self._idf = None
            return
        idf = np.full(self.buckets, arrays["rest"][0], np.float32)
        idf[arrays["seen"]] = arrays["idf"]
        self._idf = idf

    def _counts(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import HashingVectorizer

        if not len(texts):
            return csr_matrix((0, self.buckets))
        hasher = HashingVectorizer(
            n_features=self.buckets, ngram_range=(1, self.ngrams), alternate_sign=False, norm=None
        )
        return hasher.transform(texts)
