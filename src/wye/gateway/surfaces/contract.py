"""What a surface is: one wire format, read for routing and billing and otherwise left alone.

A surface routes nothing. It tells what the choice and the bill need of a request, reads usage and
end of the answer, and shapes errors; every field that it does not know passes on untouched.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from wye.gateway import sse
from wye.gateway.errors import ApiError, error_body
from wye.gateway.money.usage import Usage
from wye.gateway.surfaces.fields import kept_elsewhere
from wye.gateway.surfaces.received import text_of

if TYPE_CHECKING:
    from wye.gateway.config import Target
    from wye.gateway.openai_api import ChatRequest


@dataclass
class Reading:
    """What is known of an answer so far.

    Attributes:
        usage: as last reported; None before it was.
        characters: of text that was written.
        finish_reason: why the answer ended, in the surface's own words.
        reported: usage as the pieces gave it, where it comes in several parts.
        tier: the service tier by which it was served, as last told; None before it was.
    """

    usage: Usage | None = None
    characters: int = 0
    finish_reason: str | None = None
    reported: dict[str, Any] = field(default_factory=dict)
    tier: str | None = None


class Surface(ABC):
    """One wire format.

    Attributes:
        name: as `speaks` of a target has it.
        path: where clients find it here.
        upstream_path: the same, behind a target's base URL.
        answer_name: what an answer is called in errors.
        passed_headers: of the client, sent on to the target.
        end_marker: data of the event behind the last piece; None where the last piece says so.
        full_codes: the codes in which upstreams say that a request exceeds the model's context.
        full_words: the same, for upstreams that say it in words alone.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    upstream_path: ClassVar[str]
    answer_name: ClassVar[str]
    passed_headers: ClassVar[tuple[str, ...]] = ()
    end_marker: ClassVar[str | None] = None
    full_codes: ClassVar[tuple[str, ...]] = (
        "context_length_exceeded", "context_window_exceeded", "string_above_max_length",
    )  # fmt: skip
    full_words: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, body: dict[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """Check the fields that routing and billing depend on.

        Raises:
            ApiError: 400 that names the field, what it was and what was expected.
        """

    @abstractmethod
    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """Whether an upstream's object is a whole answer."""

    @abstractmethod
    def is_piece(self, piece: Mapping[str, Any]) -> bool:
        """Whether an upstream's object is a piece of a streamed answer."""

    @abstractmethod
    def take(self, answer: Mapping[str, Any], reading: Reading) -> None:
        """Read usage, length and finish of an answer or a piece of one into `reading`."""

    @abstractmethod
    def ends(self, piece: Mapping[str, Any]) -> bool:
        """Whether the streamed answer is whole with this piece."""

    def complaint(self, answer: Mapping[str, Any]) -> str | None:
        """What an upstream says went wrong in an answer or a piece; None where nothing did."""
        error = answer.get("error")
        if not error:
            return None
        said = error.get("message") if isinstance(error, dict) else error
        return str(said)[:500]

    def too_long(self, error: Mapping[str, Any]) -> bool:
        """Whether an upstream's error object says that the request exceeds the context."""
        code, said = str(error.get("code") or ""), str(error.get("message") or "").lower()
        return any(c in code for c in self.full_codes) or any(w in said for w in self.full_words)

    def to_send(self, body: dict[str, Any], *, stream_usage: bool) -> dict[str, Any]:
        """The body of a streamed request as the target gets it."""
        return body

    def event(self, piece: Mapping[str, Any], request: ChatRequest) -> sse.Event | None:
        """The event by which the client gets a piece; None for one that it did not ask for."""
        return sse.Event(text_of(piece), str(piece["type"]))

    def unroutable(self, request: ChatRequest, targets: Sequence[Target]) -> str | None:
        """Why a choice among several targets that speak this would be wrong; None where it is not.

        Args:
            targets: those that speak this surface and are open to the client.
        """
        kept = self.kept(request.body)
        if kept is None or len(targets) < 2 or len(_accounts(targets)) < 2:
            return None
        return (
            f"{kept} names what one provider keeps, and {len(targets)} targets of several could be "
            "chosen; ask for the target that has it (header x-wye-target of an earlier answer), or "
            "send it whole"
        )

    def kept(self, body: Mapping[str, Any]) -> str | None:
        """What in a request stands for something that only one provider has; None for nothing."""
        return kept_elsewhere(body.get("messages"))

    def error(self, error: ApiError) -> dict[str, Any]:
        """The body of an error."""
        return error.body()

    def broken(self, message: str, code: str) -> sse.Event:
        """The event that ends a stream which broke off."""
        return sse.Event(json.dumps(error_body(message, type="server_error", code=code)))


def _accounts(targets: Sequence[Target]) -> set[tuple[str | None, ...]]:
    """At whom, and as whom, the targets are asked: what one account keeps, all its models know."""
    return {
        (server.kind, server.provider, server.address, server.api_key_env)
        for target in targets
        for server in target.served_by
    }
