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

from wye.errors import WyeError

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
            raise WyeError("a table needs at least one row, got none")
        self.rows = rows
        self._embedder = embedder
        self._keys = embedder.embed([key for key, _ in rows])

    def nearest(self, text: str, count: int) -> list[tuple[str, str]]:
        """The `count` rows whose keys are nearest to `text`, nearest first; ties by row order."""
        similarity = self._keys @ self._embedder.embed([text])[0]
        return [self.rows[i] for i in np.argsort(-similarity, kind="stable")[:count]]


def worked_examples(question: str) -> list[tuple[str, str]]:
    """The worked examples (question, answer) of the topic nearest to `question`.

    All of one topic in a fixed order, so that questions of the same topic share a prefix that the
    server keeps in its cache. No question of the embedded set is among them.
    """
    [(_, topic)] = _topics().nearest(question, 1)
    return [(row["question"], row["answer"]) for row in _rows("examples") if row["topic"] == topic]


@lru_cache(maxsize=1)
def facts() -> Table:
    """Facts, each a sentence with its topic."""
    return _table("facts", "fact")


@lru_cache(maxsize=1)
def _topics() -> Table:
    return _table("examples", "question")


def _table(name: str, key: str) -> Table:
    from wye.embed import StaticEmbedder

    return Table([(row[key], row["topic"]) for row in _rows(name)], StaticEmbedder())


@lru_cache
def _rows(name: str) -> list[dict[str, str]]:
    lines = (_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
