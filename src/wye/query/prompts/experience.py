"""Solved tasks that may be shown to a model with a similar one, behind a gate of similarity.

Retrieval without a gate does harm: in ACAR (arXiv 2602.21231) the median similarity of what was
found was 0.167 and accuracy fell by 3.4 points. Below the gate nothing is shown.

Shape letters: R remembered tasks, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wye.embed import Embedder, get_embedder
from wye.query.base import RouterError


@dataclass(frozen=True)
class Experience:
    """A task solved earlier, and its cosine similarity to the one at hand."""

    task: str
    answer: str
    similarity: float


class ExperienceMemory:
    """Remember solved tasks; recall the similar ones.

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        gate: least cosine similarity of what is recalled; 0.6 is meant for MiniLM (`minilm`).
        most: tasks recalled at once.

    Raises:
        RouterError: a gate outside -1 to 1, or `most` below 1.

    Example:
        >>> memory = ExperienceMemory(gate=0.9)
        >>> memory.add("What is 2 + 2?", "4")
        >>> [e.answer for e in memory.recall("What is 2 + 2?")]
        ['4']
        >>> memory.recall("Name a river in France.")
        []
    """

    def __init__(
        self, embedder: str | Embedder = "static", *, gate: float = 0.6, most: int = 1
    ) -> None:
        if not -1.0 <= gate <= 1.0 or most < 1:
            raise RouterError(f"gate={gate}, most={most}; expected -1 to 1, and at least 1")
        self.gate = gate
        self.most = most
        self._embedder = get_embedder(embedder)
        self._tasks: list[str] = []
        self._answers: list[str] = []
        self._vectors = np.zeros((0, self._embedder.dim), np.float32)

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: str, answer: str) -> None:
        """Remember that `answer` solved `task`; the last answer to the same task counts."""
        if task in self._tasks:
            self._answers[self._tasks.index(task)] = answer
            return
        self._vectors = np.concatenate([self._vectors, self._embedder.embed([task])])
        self._tasks.append(task)
        self._answers.append(answer)

    def recall(self, task: str) -> list[Experience]:
        """The most similar tasks at or above the gate, most similar first; ties to the older."""
        if not self._tasks:
            return []
        similarity = self._vectors @ self._embedder.embed([task])[0]
        order = np.argsort(-similarity, kind="stable")[: self.most]
        return [
            Experience(self._tasks[i], self._answers[i], float(similarity[i]))
            for i in order.tolist()
            if similarity[i] >= self.gate
        ]
