"""Words and hashed pieces of words as sparse bags.

Shape letters: Q queries, V terms.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+|[^\w\s]")
# A query of a megabyte is judged by its beginning: time stays bounded.
LONGEST = 20_000


def words_of(text: str) -> list[str]:
    """Lower-case words and single signs, in order.

    Example:
        >>> words_of("What's new?")
        ['what', "'", 's', 'new', '?']
    """
    return _WORD.findall(text[:LONGEST].lower())


def frequent_words(texts: Iterable[str], *, least: int, most: int) -> tuple[str, ...]:
    """The words that stand in `least` texts or more, the `most` frequent of them, in that order."""
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(set(words_of(text)))
    ranked = sorted((w for w, n in seen.items() if n >= least), key=lambda w: (-seen[w], w))
    return tuple(ranked[:most])


def word_rows(texts: Sequence[str], places: dict[str, int]) -> list[NDArray[np.intp]]:
    """Places of the known words of each text, in order, repeats included."""
    return [np.array([places[w] for w in words_of(text) if w in places], np.intp) for text in texts]


def piece_rows(
    texts: Sequence[str], *, buckets: int, shortest: int, longest: int
) -> list[NDArray[np.intp]]:
    """Buckets of each text's words, and of the runs of letters within `<word>` (fastText)."""
    known: dict[str, list[int]] = {}

    def pieces(word: str) -> list[int]:
        if word not in known:
            marked = f"<{word}>"
            runs = {
                marked[i : i + n]
                for n in range(shortest, longest + 1)
                for i in range(len(marked) - n + 1)
            }
            ordered = [word, *sorted(runs)]
            known[word] = [
                zlib.crc32(r.encode("utf-8", "surrogatepass")) % buckets for r in ordered
            ]
        return known[word]

    # A word longer than this is no word; its runs would outweigh all others.
    return [
        np.array([b for w in words_of(text) for b in pieces(w[:40])], np.intp) for text in texts
    ]


def mean_bags(rows: Sequence[NDArray[np.intp]], n_terms: int) -> Any:
    """`[Q, V]` sparse matrix whose rows hold the share of each term; zeros for an empty row."""
    from scipy.sparse import csr_matrix

    lengths = np.array([len(r) for r in rows], np.intp)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate([*rows, np.zeros(0, np.intp)])
    weight = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    made = csr_matrix((weight, flat, ends), shape=(len(rows), n_terms))
    made.sum_duplicates()
    return made


def unit_bags(bags: Any, importance: NDArray[np.float32]) -> Any:
    """The same with each term times its importance `[V]`, rows of unit length; zeros stay."""
    weighted = bags.multiply(importance[None, :]).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    weighted.data /= np.repeat(np.maximum(length, 1e-12), np.diff(weighted.indptr))
    return weighted
