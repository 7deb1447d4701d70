"""The tables that strategies look things up in: worked examples and facts, found by embedding.

Both are small files of this package, written by `scripts/make_embedded_set.py`; NOTICE beside them
names their sources.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.embed import Embedder

_FOLDER = Path(__file__).with_name("tables")


class Table:
    """Rows of (key, value), found by the cosine of embeddings of the key.

    Args:
        rows: keys and values.
        embedder: of keys and questions.
    """

    def __init__(self, rows: list[tuple[str, str]], embedder: Embedder) -> None:
        if not rows:
            raise ValueError("a table needs at least one row, got none")
        self.rows = rows
        self._embedder = embedder
        self._keys = embedder.embed([key for key, _ in rows])

    def nearest(self, text: str, count: int) -> list[tuple[str, str]]:
        """The `count` rows whose keys are nearest to `text`, nearest first; ties by row order."""
        similarity = self._keys @ self._embedder.embed([text])[0]
        return [self.rows[i] for i in np.argsort(-similarity, kind="stable")[:count]]


@lru_cache(maxsize=1)
def examples() -> Table:
    """Worked examples: question, answer. No question of the embedded set is among them."""
    return _read("examples.jsonl", "question", "answer")


@lru_cache(maxsize=1)
def facts() -> Table:
    """Facts, each a sentence with its topic."""
    return _read("facts.jsonl", "fact", "topic")


def _read(name: str, key: str, value: str) -> Table:
    from wye.embed import StaticEmbedder

    lines = (_FOLDER / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return Table([(row[key], row[value]) for row in rows], StaticEmbedder())
