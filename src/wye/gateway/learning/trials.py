"""The experiments that a running gateway carries out: who decides a request, who only watches.

A unit (a session, a key, or a single request where neither is named) falls into an arm by a hash,
so that every gateway and every restart puts it into the same one. Shadows decide later, in the
background (`wye.gateway.learning.shadowing`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wye.gateway.learning.course import Assignment, Course, Shadow
from wye.gateway.learning.shadowing import Shadows
from wye.gateway.records import new_id

if TYPE_CHECKING:
    from wye.gateway.policy_set import PolicySet

CONTROL, CANDIDATE = "control", "candidate"


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


class Trials:
    """The running experiments. Used from the event loop.

    Attributes:
        shadows: what those of kind "shadow" decide in the background.
    """

    def __init__(self) -> None:
        self.running: tuple[Trial, ...] = ()
        self.shadows = Shadows()

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
