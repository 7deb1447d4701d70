"""Answers in the store: they outlive the gateway, and other gateways of the store find them.

Everything here blocks; the event loop leaves it to a thread.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import sqlalchemy as sa

from wye.gateway.answer_cache.answers import Answer
from wye.gateway.answer_cache.records import AnswerRecord
from wye.gateway.answer_cache.tables import answers
from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.store import Store

logger = logging.getLogger("wye.gateway")
_VECTOR = np.dtype("<f4")


class Shelf:
    """Where answers are written to and read from.

    Args:
        store: of the gateway.
        max_bytes: most that answers take there; the oldest go first.
        ttl_seconds: how long each is good.
    """

    def __init__(self, store: Store, max_bytes: float, ttl_seconds: float) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._ttl = ttl_seconds

    def add(self, answer: Answer) -> None:
        """Have an answer written soon. Never blocks."""
        vector = None if answer.vector is None else answer.vector.astype(_VECTOR).tobytes()
        self._store.add(
            AnswerRecord(
                answer.decision_id,
                answer.key,
                answer.target,
                answer.time,
                answer.content,
                answer.baseline_usd,
                answer.group,
                answer.text,
                vector,
            )
        )

    def find(self, key: str, now: float) -> Answer | None:
        """The latest answer to exactly this question, while it is good."""
        query = self._good(now).where(answers.c.key == key).limit(1)
        found = self._read(query)
        return found[0] if found else None

    def newest(self, now: float) -> list[Answer]:
        """Good answers, oldest first, as many as fit."""
        kept, size = [], 0.0
        for answer in self._read(self._good(now).limit(100_000)):
            size += answer.size
            if size > self._max_bytes:
                break
            kept.append(answer)
        return kept[::-1]

    def sweep(self, now: float) -> None:
        """Delete what is over, and the oldest of what is too much."""
        try:
            with self._store.engine.begin() as connection:
                over = answers.c.time <= now - self._ttl
                connection.execute(sa.delete(answers).where(over))
                size = sa.func.length(answers.c.content)
                left, most = 0.0, None
                query = sa.select(answers.c.time, size).order_by(answers.c.time.desc())
                for time, length in connection.execute(query):
                    left += length
                    if left > self._max_bytes:
                        most = time
                        break
                if most is not None:
                    connection.execute(sa.delete(answers).where(answers.c.time <= most))
        except STORE_ERRORS as error:
            logger.error("kept answers cannot be swept: %s", details(error))

    def _good(self, now: float) -> sa.Select[Any]:
        fresh = (answers.c.time > now - self._ttl) & (answers.c.time <= now)
        return sa.select(answers).where(fresh).order_by(answers.c.time.desc())

    def _read(self, query: sa.Select[Any]) -> list[Answer]:
        """What a query finds; nothing where the store cannot be read."""
        try:
            with self._store.engine.connect() as connection:
                return [_answer(row) for row in connection.execute(query).mappings()]
        except STORE_ERRORS as error:
            logger.error("kept answers cannot be read: %s", details(error))
            return []


def _answer(row: Any) -> Answer:
    vector = row["vector"]
    return Answer(
        key=row["key"],
        decision_id=row["decision_id"],
        target=row["target"],
        time=row["time"],
        content=row["content"],
        baseline_usd=row["baseline_usd"],
        group=row["near"],
        text=row["text"],
        vector=None if vector is None else np.frombuffer(vector, _VECTOR).astype(np.float32),
    )
