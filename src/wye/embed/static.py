"""The default embedder: the mean of static token vectors, from the weights in wordllama's wheel.

No download, no torch, tens of microseconds a query. Source: WordLlama (D. Lee Miller, 2024), token
vectors distilled from the input embeddings of large language models.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.embed.base import Embedder, EmbedError, Vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray


class StaticEmbedder(Embedder):
    """Mean of wordllama's token vectors, D = 256.

    Args:
        max_chars: only this many leading characters of a text are read, which bounds the time of a
            decision; 0 reads everything.

    Example:
        >>> StaticEmbedder().embed(["What is the capital of France?"]).shape
        (1, 256)
    """

    batch_size = 2048

    def __init__(self, *, max_chars: int = 16384) -> None:
        if max_chars < 0:
            raise EmbedError(f"max_chars is {max_chars}, expected 0 (no limit) or more")
        self.max_chars = max_chars
        self.name = f"static:wordllama-{version('wordllama')}:chars={max_chars}"
        self.spec = "static" if max_chars == 16384 else f"static:{max_chars}"

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(_load()[1].shape[1])

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        tokenizer, table = _load()
        if self.max_chars:
            texts = [t[: self.max_chars] for t in texts]
        if len(texts) == 1:
            # Waking the threads that a batch is shared among takes longer than one text does.
            only = np.array(tokenizer.encode(texts[0], add_special_tokens=False).ids, np.intp)
            summed: Vectors = np.add.reduce(_rows(table, only), axis=0, keepdims=True)
            return summed / np.float32(only.size or 1)
        ids = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        counts = np.fromiter(map(len, ids), np.intp, len(ids))
        filled = counts > 0
        vectors = np.zeros((len(ids), table.shape[1]), np.float32)
        if filled.any():
            flat = np.concatenate([np.array(i, np.intp) for i in ids if i])
            kept = counts[filled]
            vectors[filled] = _sums(table, flat, kept)
            vectors[filled] /= kept[:, None]
        return vectors


def _rows(table: Vectors, ids: NDArray[np.intp]) -> Vectors:
    """Token vectors; ids beyond the table exist for added special tokens alone."""
    return table.take(ids, axis=0, mode="clip")


def _sums(table: Vectors, flat: NDArray[np.intp], counts: NDArray[np.intp]) -> Vectors:
    """Sum of the token vectors of each text, from all tokens in a row and each text's count."""
    ends = np.cumsum(counts)
    if flat.size <= 2048:
        return np.asarray(np.add.reduceat(_rows(table, flat), ends - counts, axis=0), np.float32)
    from scipy.sparse import csr_array

    # A sparse product reads each token vector once and never holds all of them.
    ones = np.ones(flat.size, np.float32)
    np.minimum(flat, table.shape[0] - 1, out=flat)
    bags = csr_array((ones, flat, np.append(0, ends)), shape=(len(counts), table.shape[0]))
    return np.asarray(bags @ table, np.float32)


@lru_cache(maxsize=1)
def _load() -> tuple[Any, Vectors]:
    with _root_logger_kept():
        import wordllama

    model = wordllama.WordLlama.load(
        cache_dir=os.path.dirname(wordllama.__file__), disable_download=True
    )
    model.tokenizer.no_padding()
    return model.tokenizer, np.ascontiguousarray(model.embedding, np.float32)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Importing wordllama configures the root logger, which belongs to the application."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
