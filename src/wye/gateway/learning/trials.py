"""The experiments that a running gateway carries out: who decides a request, who only watches.

A unit (a session, a key, or a single request where neither is named) falls into an arm by a hash,
so that every gateway and every restart puts it into the same one. Shadows decide in a thread of
their own, behind a queue that is bounded: what does not fit is not shadowed, and counted.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wye.gateway.decision_record import finite
from wye.gateway.errors import ApiError
from wye.gateway.learning.course import Assignment, Course, Shadow
from wye.gateway.learning.records import ShadowRecord
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import DecisionRecord, new_id
from wye.query.policies.choosing import targets_of
from wye.query.policy import chances

if TYPE_CHECKING:
    from wye.gateway.policy_set import PolicySet
    from wye.gateway.store import Store

CONTROL, CANDIDATE = "control", "candidate"
_WAITING = 1000
logger = logging.getLogger("wye.gateway")


@dataclass(frozen=True)
class Trial:
    """An experiment that runs here.

    Attributes:
        id, name: of the experiment.
        kind: "shadow", "canary" or "ab".
        share: of the units that fall into the candidate's arm; of a shadow, of the requests.
        by: "session" or "key", what a unit is.
        candidate: what is tried.
    """

    id: str
    name: str
    kind: str
    share: float
    by: str
    candidate: PolicySet


@dataclass(frozen=True)
class _Waiting:
    shadow: Shadow
    chat: ChatRequest
    record: DecisionRecord
    store: Store


class Trials:
    """The running experiments. Used from the event loop, but for the thread of the shadows."""

    def __init__(self) -> None:
        self.running: tuple[Trial, ...] = ()
        self.missed = 0
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def course(
        self, present: PolicySet, policy: str, key: str | None, session: str | None
    ) -> Course:
        """Who decides a request for `policy` of this key and session."""
        if not self.running:
            return Course(present)
        deciding, assignment, shadows = present, None, []
        for trial in self.running:
            unit = _unit(trial.by, key, session)
            chosen = _draw(trial.id, unit) < trial.share
            if trial.kind == "shadow":
                if chosen:
                    shadows.append(Shadow(trial.id, trial.candidate))
            elif policy in trial.candidate.policies:
                arm = CANDIDATE if chosen else CONTROL
                assignment = Assignment(trial.id, trial.name, arm, _short(unit))
                deciding = trial.candidate if chosen else present
        return Course(deciding, assignment, tuple(shadows))

    def shadow(
        self, shadows: Sequence[Shadow], chat: ChatRequest, record: DecisionRecord, store: Store
    ) -> None:
        """Have shadows decide a request after their own way. Never blocks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="wye-shadows", daemon=True)
            self._thread.start()
        for shadow in shadows:
            try:
                self._queue.put_nowait(_Waiting(shadow, chat, record, store))
            except queue.Full:
                self.missed += 1

    def close(self) -> None:
        """Let the shadows finish what waits."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            try:
                waiting.store.add(_decided(waiting.shadow, waiting.chat, waiting.record))
            except ApiError as error:
                logger.warning("a shadow could not decide: %s", error.message)
            except Exception:
                # A defect of a shadow must not stop the others, nor anything that acts.
                logger.exception("a shadow failed")


def _decided(shadow: Shadow, chat: ChatRequest, record: DecisionRecord) -> ShadowRecord:
    policies = shadow.policies
    expected = policies.expect_now(chat)
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


def _unit(by: str, key: str | None, session: str | None) -> str:
    """What is drawn for a request: its session, its key, or the request alone."""
    if by == "session" and session is not None:
        return f"session {key} {session}"
    if by == "key" and key is not None:
        return f"key {key}"
    return f"request {new_id()}"


def _draw(experiment: str, unit: str) -> float:
    """A number in [0, 1), uniform over units and independent between experiments."""
    digest = hashlib.sha256(f"{experiment} {unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _short(unit: str) -> str:
    return hashlib.sha256(unit.encode()).hexdigest()[:24]
