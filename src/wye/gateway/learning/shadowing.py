"""Shadows: sets of policies that decide beside the one that acts, and are never followed.

    a decision is handed on -> it waits -> a batch of them is decided after each shadow's own way

A thread of its own takes what waits, a moment after it came, so that no request shares the time of
its own decision with a shadow. Where a shadow expects just what the acting set does (the same
router, targets and prices), the estimate that the decision rests on is taken; else those of a batch
are estimated together. The queue is bounded: what does not fit is not shadowed, counted, and said.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wye.gateway.decision_record import finite
from wye.gateway.errors import ApiError
from wye.gateway.estimates import Expected
from wye.gateway.learning.course import Course, Shadow
from wye.gateway.learning.records import ShadowRecord
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import DecisionRecord
from wye.query.policies.choosing import targets_of
from wye.query.policy import chances

if TYPE_CHECKING:
    from wye.gateway.store import Store

RESULTS = ("made", "dropped", "failed")
_WAITING = 1000
# What is estimated in one call holds the interpreter for a few milliseconds at most.
_TOGETHER = 32
# For company, and so that the requests of a burst are answered before their shadows decide.
_PAUSE_SECONDS = 0.02
logger = logging.getLogger("wye.gateway")


@dataclass(frozen=True)
class _Waiting:
    """A decision that a shadow is to make; `chat` has no body, which may be large."""

    shadow: Shadow
    chat: ChatRequest
    record: DecisionRecord
    expected: Expected
    store: Store


class Shadows:
    """Has shadows decide in the background.

    Args:
        waiting: most decisions that wait.

    Attributes:
        counts: decisions since the start, by what became of them (`RESULTS`).
    """

    def __init__(self, waiting: int = _WAITING) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(waiting)
        self._told_at = 1
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Decisions that wait."""
        return self._queue.qsize()

    def add(
        self, course: Course, chat: ChatRequest, record: DecisionRecord, expected: Expected,
        store: Store,
    ) -> None:  # fmt: skip
        """Have the shadows of a course decide a request soon. From the event loop; never blocks.

        Args:
            record, expected: the decision that acts, and what it rests on.
        """
        if self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="wye-shadows", daemon=True)
            self._thread.start()
        light = replace(chat, body={}, carried={})
        for shadow in course.shadows:
            try:
                self._queue.put_nowait(_Waiting(shadow, light, record, expected, store))
            except queue.Full:
                self._dropped()

    def close(self) -> None:
        """Let the shadows decide all that waits. Blocks."""
        if self._thread is not None:
            self._closing.set()
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _dropped(self) -> None:
        self.counts["dropped"] += 1
        # Told again at ten times as many, lest a flood of requests becomes one of log lines.
        if self.counts["dropped"] >= self._told_at:
            self._told_at *= 10
            logger.warning(
                "requests come faster than shadows decide: %d decisions of shadows were left out "
                "since %d waited (wye_shadow_decisions counts them)",
                self.counts["dropped"], self._queue.maxsize,
            )  # fmt: skip

    def _run(self) -> None:
        closing = False
        while not closing:
            taken = [self._queue.get()]
            self._closing.wait(_PAUSE_SECONDS)
            while len(taken) < _TOGETHER and self.waiting:
                taken.append(self._queue.get_nowait())
            closing = None in taken
            batch = [one for one in taken if one is not None]
            for shadow in dict.fromkeys(one.shadow for one in batch):
                self._decide(shadow, [one for one in batch if one.shadow == shadow])

    def _decide(self, shadow: Shadow, batch: Sequence[_Waiting]) -> None:
        """Decide what of a batch waits for one shadow.

        A request that defeats it is told in the log and stops neither the others nor what acts.
        """
        try:
            found = _expectations(shadow, batch)
        except Exception:
            if len(batch) > 1:
                for one in batch:
                    self._decide(shadow, [one])
                return
            self.counts["failed"] += 1
            logger.exception("a shadow failed to estimate")
            return
        for one, expected in zip(batch, found, strict=True):
            try:
                one.store.add(_decided(shadow, one.chat, one.record, expected))
                self.counts["made"] += 1
            except ApiError as error:
                self.counts["failed"] += 1
                logger.warning("a shadow could not decide: %s", error.message)
            except Exception:
                self.counts["failed"] += 1
                logger.exception("a shadow failed to choose")


def _expectations(shadow: Shadow, batch: Sequence[_Waiting]) -> list[Expected]:
    """What a shadow expects of each request; the acting estimate where that is the same."""
    policies = shadow.policies
    own = [one for one in batch if _foresight(one.expected) != policies.foresight]
    found = iter(policies.expect_now([one.chat for one in own]) if own else [])
    return [
        one.expected
        if _foresight(one.expected) == policies.foresight
        else _with_cache(next(found), one.expected)
        for one in batch
    ]


def _foresight(expected: Expected) -> str | None:
    return expected.course.deciding.foresight if expected.course is not None else None


def _with_cache(own: Expected, acting: Expected) -> Expected:
    """A shadow's expectation with what is cached of the conversation, as who acts has it."""
    if acting.conversation is None:
        return own
    cost = np.maximum(0.0, own.estimate.cost + np.array([acting.conversation.shift]))
    return replace(own, estimate=replace(own.estimate, cost=cost))


def _decided(
    shadow: Shadow, chat: ChatRequest, record: DecisionRecord, expected: Expected
) -> ShadowRecord:
    policies = shadow.policies
    named = record.policy_name in policies.policies
    policy = policies.policy(record.policy_name if named else policies.default_policy, chat)
    choice, _ = policies.choose(policy, expected, record.excluded)
    models, column = expected.estimate.models, -1
    law = None
    if choice is not None:
        column = int(targets_of(choice)[0])
        law = chances(choice, 0, column)
    cost = finite(expected.estimate.cost[0, column]) if column >= 0 else None
    if column >= 0:
        # Nobody acts on it, so an account can only be kept of what it was expected to cost.
        policy.settle(cost or 0.0)
    acted = float(law[models.index(record.target)]) if law is not None and record.target else None
    return ShadowRecord(
        decision_id=record.id,
        experiment=shadow.experiment,
        time=time.time(),
        policy_version=policies.digest,
        target=models[column] if column >= 0 else None,
        propensity=float(choice.propensity[0]) if choice is not None and column >= 0 else 1.0,
        acted=acted,
        quality=float(expected.estimate.quality[0, column]) if column >= 0 else None,
        cost_usd=cost,
    )
