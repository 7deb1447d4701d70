"""Do people still ask what they asked before? The embeddings of requests against a reference.

Half of the reference fixes what is looked at: its main directions, some random ones, and the
cosine to the nearest of it, which falls for requests of another kind altogether. Each request is J
figures then, which are ranked among those of the other half and of all requests before
(`wye.gateway.watch.ranks`) and watched for a change (`wye.gateway.watch.detector`). As long as
requests are drawn alike and one by one, false alarms are as rare as stated. Requests of one
conversation and repeated texts are not drawn one by one, so each counts once. A shift along a
direction in which requests hardly differ, and that leaves them as close to known ones as before, is
beyond these figures.

Shape letters: R references, N requests, D embedding width, J figures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wye.gateway.watch.detector import Change, Detector
from wye.gateway.watch.ranks import Ranks
from wye.query.base import FloatArray

DIRECTIONS = 16
RANDOM = 8
_NEIGHBOURS = 1024


class Looks:
    """J figures of an embedding, fixed by half of a reference.

    Args:
        vectors: `[R, D]`.
        generator: of the random directions.
    """

    def __init__(self, vectors: NDArray[np.float32], generator: np.random.Generator) -> None:
        self._nearest = vectors[:_NEIGHBOURS]
        centred = vectors - vectors.mean(axis=0)
        main = np.linalg.svd(centred, full_matrices=False)[2][:DIRECTIONS]
        random = generator.standard_normal((RANDOM, vectors.shape[1]))
        self._directions = np.concatenate([main, random]).astype(np.float32)
        self.names = (
            "closeness to known requests",
            *(f"main direction {n}" for n in range(1, len(main) + 1)),
            *(f"random direction {n}" for n in range(1, RANDOM + 1)),
        )

    def __call__(self, vectors: NDArray[np.float32]) -> FloatArray:
        """Figures `[N, J]` of embeddings `[N, D]`."""
        closest = (vectors @ self._nearest.T).max(axis=1)
        return np.column_stack([closest, vectors @ self._directions.T]).astype(np.float64)


class TrafficMonitor:
    """Watches embeddings.

    Args:
        false_alarm_every: mean number of requests to a false alarm, at least.
        learn_from: requests that make a reference where none is given, and after an alarm.
        generator: of every random choice.
        reference: `[R, D]` embeddings of what is usual, for instance of the training queries.

    Attributes:
        seen: requests so far, those learned from included.
        usual: what the reference is made of, in words.
    """

    def __init__(
        self,
        *,
        false_alarm_every: float,
        learn_from: int,
        generator: np.random.Generator,
        reference: NDArray[np.float32] | None = None,
    ) -> None:
        self._level = false_alarm_every
        self._learn_from = learn_from
        self._generator = generator
        self._waiting: list[NDArray[np.float32]] = []
        self._looks: Looks | None = None
        self.seen = 0
        self.usual = "the requests before"
        if reference is not None and len(reference) >= learn_from:
            self._learn(reference)
            self.usual = "what the router learned from"

    @property
    def learning(self) -> bool:
        """Whether there is no reference yet."""
        return self._looks is None

    @property
    def evidence(self) -> float:
        """As a share of what raises an alarm; 0 while learning."""
        return 0.0 if self.learning else self._detector.evidence

    def name_of(self, change: Change) -> str:
        """What shows a change most."""
        return self._names[change.stream]

    def take(self, vectors: NDArray[np.float32]) -> Change | None:
        """Take embeddings `[N, D]` in their order; a change is counted in all requests seen."""
        start = self.seen
        self.seen += len(vectors)
        if self._looks is None:
            self._waiting.extend(vectors)
            if len(self._waiting) >= self._learn_from:
                self._learn(np.stack(self._waiting))
            return None
        before = self._detector.seen
        change = self._detector.take(self._ranks.take(self._looks(vectors)))
        if change is None:
            return None
        taken = change.at - before
        at = start + taken
        self._looks, self.usual = None, "the requests before"
        # What is usual from here on is learned of what comes from here on.
        self._waiting = list(vectors[taken:])
        return replace(change, at=at, since=at - (change.at - change.since))

    def _learn(self, vectors: NDArray[np.float32]) -> None:
        order = self._generator.permutation(len(vectors))
        half = len(vectors) // 2
        self._looks = Looks(vectors[order[:half]], self._generator)
        self._names = self._looks.names
        figures = self._looks(vectors[order[half:]])
        self._ranks = Ranks(figures.shape[1], self._generator, figures)
        self._detector = Detector(figures.shape[1], self._level)
        self._waiting = []
