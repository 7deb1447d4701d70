"""Surface: OpenAI's chat completions. Its reader and shapes are in `wye.gateway.openai_api`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from wye.gateway import sse
from wye.gateway.money.tiers import tier_of
from wye.gateway.money.usage import usage_of
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.gateway.surfaces.contract import Reading, Surface
from wye.gateway.surfaces.received import text_of


class Chat(Surface):
    """`POST /v1/chat/completions`."""

    name: ClassVar[str] = "chat"
    path: ClassVar[str] = "/v1/chat/completions"
    upstream_path: ClassVar[str] = "chat/completions"
    answer_name: ClassVar[str] = "chat completion"
    # Of vLLM and of llama.cpp's server, which have no code for it.
    full_words: ClassVar[tuple[str, ...]] = (
        "maximum context length", "exceeds the available context",
    )  # fmt: skip
    end_marker: ClassVar[str | None] = sse.DONE

    def read(self, body: dict[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """See `parse_chat`."""
        return parse_chat(body)

    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """It has at least one choice."""
        choices = answer.get("choices")
        return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)

    def is_piece(self, piece: Mapping[str, Any]) -> bool:
        """It has choices; the piece with usage alone has none of them."""
        return isinstance(piece.get("choices"), list)

    def take(self, answer: Mapping[str, Any], reading: Reading) -> None:
        """Usage, tier, content and finish of all choices."""
        reading.usage = usage_of(answer) or reading.usage
        reading.tier = tier_of(answer) or reading.tier
        for choice in _choices(answer):
            message = choice.get("message") or choice.get("delta") or {}
            content = message.get("content") if isinstance(message, dict) else None
            reading.characters += len(content) if isinstance(content, str) else 0
            reason = choice.get("finish_reason")
            reading.finish_reason = reason if isinstance(reason, str) else reading.finish_reason

    def ends(self, piece: Mapping[str, Any]) -> bool:
        """A choice is finished; some servers send no `[DONE]` behind it."""
        return any(choice.get("finish_reason") for choice in _choices(piece))

    def to_send(self, body: dict[str, Any], *, stream_usage: bool) -> dict[str, Any]:
        """Asks for usage in the stream, which is billed by."""
        if stream_usage:
            options = {**(body.get("stream_options") or {}), "include_usage": True}
            return {**body, "stream_options": options}
        return body

    def event(self, piece: Mapping[str, Any], request: ChatRequest) -> sse.Event | None:
        """Unnamed; usage alone goes only to a client that asked for it."""
        if request.wants_usage or piece.get("choices") or "usage" not in piece:
            return sse.Event(text_of(piece))
        return None


def _choices(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (choice for choice in answer.get("choices") or () if isinstance(choice, dict))


CHAT = Chat()
