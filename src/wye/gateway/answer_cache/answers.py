"""Answers that are kept: by question, and by group for those that are found by likeness.

Shape letters: N answers of a group, D width of a vector.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """One whole answer.

    Attributes:
        key: of its question.
        decision_id: of the request that was asked.
        target: who answered.
        time: when, in seconds since 1970.
        content: the body as JSON; of a stream, its pieces as a JSON list.
        baseline_usd: what the request is expected to have cost at the baseline target.
        group, text, vector: of the question, where it may be found by likeness.
    """

    key: str
    decision_id: str
    target: str
    time: float
    content: bytes
    baseline_usd: float | None
    group: str | None = None
    text: str = ""
    vector: NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        width = 0 if self.vector is None else self.vector.nbytes
        return _OVERHEAD_BYTES + len(self.content) + 4 * len(self.text) + width


class Answers:
    """Answers in memory; the least recently used go first.

    Args:
        max_bytes: most that they take.
        ttl_seconds: how long each is good.
    """

    def __init__(self, max_bytes: float, ttl_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl_seconds
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._groups: dict[str, _Group] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, now: float) -> Answer | None:
        """The answer to exactly this question, while it is good."""
        answer = self._kept.get(key)
        if answer is None:
            return None
        if self._over(answer, now):
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return answer

    def like(
        self, group: str, vector: NDArray[np.float32], threshold: float, now: float
    ) -> list[tuple[Answer, float]]:
        """Answers of a group whose cosine reaches the threshold, nearest first."""
        found = self._groups.get(group)
        if found is None:
            return []
        near = [(self._kept[key], cosine) for key, cosine in found.near(vector, threshold)]
        return [(answer, cosine) for answer, cosine in near if not self._over(answer, now)]

    def put(self, answer: Answer, now: float) -> None:
        """Keep an answer, in place of an earlier one to the same question."""
        if answer.key in self._kept:
            self._drop(answer.key)
        if answer.size > self._max_bytes:
            return
        self._kept[answer.key] = answer
        self.bytes += answer.size
        if answer.group is not None and answer.vector is not None:
            width = len(answer.vector)
            self._groups.setdefault(answer.group, _Group(width)).add(answer.key, answer.vector)
        # It may be over itself by now: one that was read from the store at a start, say.
        while self._kept and (self.bytes > self._max_bytes or self._over(self._oldest(), now)):
            self._drop(self._oldest().key)

    def _oldest(self) -> Answer:
        return next(iter(self._kept.values()))

    def _over(self, answer: Answer, now: float) -> bool:
        return not 0 <= now - answer.time < self._ttl

    def _drop(self, key: str) -> None:
        answer = self._kept.pop(key)
        self.bytes -= answer.size
        if answer.group is not None and answer.vector is not None:
            group = self._groups[answer.group]
            group.remove(key)
            if not group.keys:
                del self._groups[answer.group]


class _Group:
    """Vectors of the questions that differ in their last text alone, `[N, D]`."""

    def __init__(self, width: int) -> None:
        self.keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors = np.empty((8, width), np.float32)

    def add(self, key: str, vector: NDArray[np.float32]) -> None:
        row = len(self.keys)
        if row == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        self._vectors[row] = vector
        self._rows[key] = row
        self.keys.append(key)

    def remove(self, key: str) -> None:
        """The last one takes its row."""
        row, last = self._rows.pop(key), self.keys.pop()
        if last != key:
            self._vectors[row] = self._vectors[len(self.keys)]
            self._rows[last], self.keys[row] = row, last

    def near(self, vector: NDArray[np.float32], threshold: float) -> list[tuple[str, float]]:
        cosines = self._vectors[: len(self.keys)] @ vector
        rows = np.flatnonzero(cosines >= threshold)
        rows = rows[np.argsort(-cosines[rows], kind="stable")]
        return [(self.keys[row], float(cosines[row])) for row in rows.tolist()]
