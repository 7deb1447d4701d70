"""Is it still the same model that answers under this name? Its names, and how its answers look.

An upstream says with each answer which model gave it, and some a fingerprint of their system: a new
one is told at once. And the answers themselves have figures (how long, how fast, refused or not,
how sure of the first token), which are ranked among those before them and watched for a change.
They follow the requests too: where traffic changes, so may answers, and only canaries tell apart.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from wye.gateway.watch.detector import Change, Detector
from wye.gateway.watch.ranks import Ranks
from wye.query.base import FloatArray

FIGURES = ("length", "seconds per token", "refusals", "certainty of the first token")
_REFUSAL = re.compile(
    r"^\W*(i'?m (very )?sorry|sorry|i apologi[sz]e|as an ai"
    r"|i (can(no|')t|can not|am unable|won'?t|must decline))\b",
    re.IGNORECASE,
)


def figures_of(
    *,
    output_tokens: int | None,
    seconds: float | None,
    opening: str,
    refused: bool,
    finish_reason: str | None,
    logprob: float | None,
) -> FloatArray:
    """The figures `[J]` of one answer; NaN where one is not known."""
    tokens = output_tokens or 0
    declined = refused or finish_reason in ("content_filter", "refusal")
    declined = declined or bool(_REFUSAL.match(opening.replace("\u2019", "'")))
    return np.array(
        [
            math.log1p(tokens) if tokens else math.nan,
            math.log(seconds / tokens) if seconds and tokens else math.nan,
            float(declined),
            logprob if logprob is not None else math.nan,
        ]
    )


class AnswerMonitor:
    """Watches the answers of one target.

    Args:
        false_alarm_every: mean number of answers to a false alarm, at least.
        learn_from: answers before the first alarm can be raised; they are the reference.
        generator: breaks ties.

    Attributes:
        seen: answers so far.
    """

    def __init__(
        self, *, false_alarm_every: float, learn_from: int, generator: np.random.Generator
    ) -> None:
        self._level = false_alarm_every
        self._learn_from = learn_from
        self._generator = generator
        self.seen = 0
        self._restart()

    @property
    def learning(self) -> bool:
        """Whether there is no reference yet."""
        return self._learned < self._learn_from

    @property
    def evidence(self) -> float:
        """As a share of what raises an alarm."""
        return self._detector.evidence

    def take(self, figures: FloatArray) -> Change | None:
        """Take figures `[N, J]` of answers in their order."""
        start = self.seen
        self.seen += len(figures)
        first = min(len(figures), max(0, self._learn_from - self._learned))
        self._learned += len(figures)
        self._ranks.take(figures[:first])
        before = self._detector.seen
        change = self._detector.take(self._ranks.take(figures[first:]))
        if change is None:
            return None
        at = start + first + change.at - before
        self._restart()
        return replace(change, at=at, since=at - (change.at - change.since))

    def _restart(self) -> None:
        self._learned = 0
        self._ranks = Ranks(len(FIGURES), self._generator)
        self._detector = Detector(len(FIGURES), self._level)
