"""Who is told of every decision and every outcome, beside the store: traces, logs, the watch.

A witness is called on the event loop and must return at once; what takes longer it leaves to a
thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord


class Witness(Protocol):
    """Told of requests."""

    def decided(self, exchange: Exchange) -> None:
        """A decision was made."""

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """The request is over, well or not."""


_OPENING = 120


@dataclass(slots=True)
class Glance:
    """What is read of an answer for those who watch, from its first pieces alone.

    Attributes:
        model: what the upstream calls the model that answered; None where it does not say.
        fingerprint: of its system, where it gives one.
        opening: the answer's first characters.
        refused: whether the upstream marked it as refused.
        logprob: of the first token, where it came along.
    """

    model: str | None = None
    fingerprint: str | None = None
    opening: str = ""
    refused: bool = False
    logprob: float | None = None
    _begun: bool = False

    def take(self, answer: Mapping[str, Any]) -> None:
        """Read a piece, or a whole answer, of any surface."""
        if not self._begun:
            self._begun = True
            self._name(answer)
        if len(self.opening) < _OPENING:
            self._read(answer)

    def _name(self, answer: Mapping[str, Any]) -> None:
        for name in ("message", "response"):
            if isinstance(inner := answer.get(name), dict):
                answer = inner
                break
        model, fingerprint = answer.get("model"), answer.get("system_fingerprint")
        self.model = model[:200] if isinstance(model, str) else None
        self.fingerprint = fingerprint[:200] if isinstance(fingerprint, str) else None

    def _read(self, answer: Mapping[str, Any]) -> None:
        choices = answer.get("choices")
        if isinstance(choices, list):
            choice = choices[0] if choices and isinstance(choices[0], dict) else {}
            said = choice.get("message") or choice.get("delta") or {}
            self._choice(choice, said if isinstance(said, dict) else {})
            return
        delta = answer.get("delta")
        if isinstance(delta, dict):
            delta = delta.get("text")
        if isinstance(delta, str):
            self._add(delta)
        for block in answer.get("content") or answer.get("output") or ():
            inner = block.get("content", [block]) if isinstance(block, dict) else ()
            for part in inner if isinstance(inner, list) else ():
                if isinstance(part, dict):
                    self._add(part.get("text"))
                    self.refused = self.refused or part.get("type") == "refusal"

    def _choice(self, choice: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        self._add(said.get("content"))
        self.refused = self.refused or bool(said.get("refusal"))
        if self.logprob is None and isinstance(found := choice.get("logprobs"), dict):
            tokens = found.get("content")
            first = tokens[0] if isinstance(tokens, list) and tokens else None
            value = first.get("logprob") if isinstance(first, dict) else None
            self.logprob = float(value) if isinstance(value, int | float) else None

    def _add(self, text: Any) -> None:
        if isinstance(text, str):
            self.opening = (self.opening + text)[:_OPENING]
