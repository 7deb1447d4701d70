"""What learning in operation writes beside decisions, outcomes and feedback."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContextRecord:
    """What a learner read of a query when it decided.

    Attributes:
        reader: how the context was read; learners of one reader learn from each other's choices.
        targets: M names.
        context: `[D]` float32, little endian.
        expected: `[2, M]` float64, little endian: the quality and the cost (USD) that were expected
            before anything was learned; NaN where unknown.
    """

    decision_id: str
    reader: str
    targets: tuple[str, ...]
    context: bytes
    expected: bytes


@dataclass(frozen=True)
class ShadowRecord:
    """What a version in the shadow would have decided; nobody acted on it.

    Attributes:
        target: its choice, None where it found none.
        propensity: with which it chose so.
        acted: probability with which it would have chosen the target that really was chosen.
        quality, cost_usd: what it expected of its choice.
    """

    decision_id: str
    experiment: str
    time: float
    policy_version: str
    target: str | None
    propensity: float
    acted: float | None
    quality: float | None
    cost_usd: float | None


@dataclass(frozen=True)
class AssignmentRecord:
    """The arm of an experiment in which a decision was made, and the unit that was drawn."""

    decision_id: str
    experiment: str
    arm: str
    unit: str


@dataclass(frozen=True)
class OverheadRecord:
    """What was spent beside an answer: `kind` says on what, `result` what came of it."""

    decision_id: str
    time: float
    kind: str
    target: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    result: str


LearningRecord = ContextRecord | ShadowRecord | AssignmentRecord | OverheadRecord
