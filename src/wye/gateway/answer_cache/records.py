"""An answer as the store keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerRecord:
    """One whole answer; see `wye.gateway.answer_cache.answers.Answer`.

    Attributes:
        near: digest of what has to be equal for an ask that is like this one; None without.
        vector: `[D]` float32, little endian, where there is `near`.
    """

    decision_id: str
    key: str
    target: str
    time: float
    content: bytes
    baseline_usd: float | None
    near: str | None
    text: str
    vector: bytes | None
