"""How one request is decided: by which policies, in which experiment, seen by which shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wye.gateway.policy_set import PolicySet


@dataclass(frozen=True)
class Assignment:
    """The arm of an experiment that a request fell into.

    Attributes:
        experiment: its id.
        name: its name.
        arm: "control" or "candidate".
        unit: what was drawn: a hash of the session or key, or of the request alone.
    """

    experiment: str
    name: str
    arm: str
    unit: str


@dataclass(frozen=True)
class Shadow:
    """Policies that decide beside the acting ones; the choice is logged, never followed."""

    experiment: str
    policies: PolicySet


@dataclass(frozen=True)
class Course:
    """Who decides a request, in which experiment, and who only watches."""

    deciding: PolicySet
    assignment: Assignment | None = None
    shadows: tuple[Shadow, ...] = ()
