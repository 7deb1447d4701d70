"""What the gateway remembers: a decision, its outcome, and what a user thought of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wye.gateway.answer_cache.records import AnswerRecord
from wye.gateway.learning.records import LearningRecord
from wye.query.decisions import first_id, format_id

Status = Literal["ok", "error", "cancelled"]


def new_id() -> str:
    """An identifier that sorts by time and cannot be guessed: a UUID of version 7 (RFC 9562)."""
    return format_id(first_id())


@dataclass(frozen=True)
class DecisionRecord:
    """A decision as it is stored, before anything is known of its outcome.

    Attributes:
        id: see `new_id`.
        time: seconds since 1970.
        requested: the `model` the client asked for.
        policy_name: name in the configuration; "direct" when the client named the target.
        policy: name and parameters, as in `utility(cost_weight=50.0)`.
        router: name of the router's system.
        policy_version: digest of everything the choice depends on but the query: router, policy,
            targets. Decisions with one version can be analysed together.
        target: the chosen target; None when nothing could be chosen.
        propensity: probability of that choice, in (0, 1].
        candidates: every target with its estimates, best score first.
        excluded: why each target that could not be chosen was left out.
        reasons: sentences, most important first.
        features: what was read of the text.
        text: what the person asks; None when prompts are not stored.
        stream: whether the client asked for a stream.
        router_cost_usd, router_seconds: what deciding took.
        key_id: the virtual key that asked, None without one.
        session: the conversation it belongs to, where the client names it.
    """

    id: str
    time: float
    requested: str
    policy_name: str
    policy: str
    router: str
    policy_version: str
    target: str | None
    propensity: float
    candidates: tuple[Mapping[str, Any], ...]
    excluded: Mapping[str, str]
    reasons: tuple[str, ...]
    features: Mapping[str, Any]
    text: str | None
    stream: bool
    router_cost_usd: float
    router_seconds: float
    key_id: str | None = None
    session: str | None = None


@dataclass(frozen=True)
class OutcomeRecord:
    """What became of a decision.

    Attributes:
        target: who answered, or was asked last; differs from the decision's after a fallback.
        status: "ok", "error", or "cancelled" when the client left.
        http_status: what the client got (200 for a stream that broke off later).
        tokens_estimated: the upstream reported no usage, so tokens are guessed from characters.
        cost_usd: by the target's prices; None where they are not known.
        baseline_usd: what the same request is expected to have cost at the baseline target.
        latency_s: from the request's arrival to the last byte.
        first_byte_s: from the request's arrival to the first piece of the answer.
        cached_input_tokens, cache_write_tokens: parts of `input_tokens`.
        reasoning_tokens: part of `output_tokens`.
        attempts: targets that failed before, as `{"target", "error", "fault", "seconds"}`.
    """

    decision_id: str
    time: float
    target: str | None
    status: Status
    http_status: int
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_estimated: bool = False
    cost_usd: float | None = None
    baseline_usd: float | None = None
    latency_s: float | None = None
    first_byte_s: float | None = None
    finish_reason: str | None = None
    attempts: tuple[Mapping[str, Any], ...] = field(default=())
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True)
class FeedbackRecord:
    """How good an answer was, as somebody or some program judged it; the latest one counts.

    `source` is who judged: "person", "judge" (a model) or "outcome" (a check of the answer).
    """

    decision_id: str
    time: float
    quality: float
    comment: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class AlarmRecord:
    """Something that the watch found (`wye.gateway.watch`).

    Attributes:
        kind: what was watched: "traffic", "calibration", "guard", "model", "answers", "canary".
        subject: the target or version it is about; None where it is about everything.
        message: a sentence: what was found, and what to do.
        since: when it seems to have begun, seconds since 1970; None where that is not known.
        figures: what the test saw.
        acknowledged, acknowledged_by, note: when somebody took notice, who, and what they said.
    """

    id: str
    time: float
    kind: str
    subject: str | None
    message: str
    since: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    acknowledged: float | None = None
    acknowledged_by: str | None = None
    note: str | None = None


Record = (
    DecisionRecord | OutcomeRecord | FeedbackRecord | AlarmRecord | LearningRecord | AnswerRecord
)
