"""Surface: Anthropic's messages, with named events in a stream.

Source: Anthropic's API reference, "Messages", "Streaming messages" and "Errors".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from wye.gateway import sse
from wye.gateway.errors import ApiError
from wye.gateway.money.tiers import tier_of
from wye.gateway.money.usage import read_anthropic
from wye.gateway.openai_api import ChatRequest, counted, wrong
from wye.gateway.surfaces.body import Body
from wye.gateway.surfaces.contract import Reading, Surface
from wye.gateway.surfaces.fields import characters, flag, model_of, objects, typed
from wye.query.ask import human_ask

VERSION_HEADER = "anthropic-version"
COUNT_PATH = "messages/count_tokens"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# What a model writes, whole and in pieces.
_WRITTEN = ("text", "thinking", "input", "partial_json")
# Documents of these kinds are text already; others are looked at page by page.
_TEXT_SOURCES = ("text", "content")


class Messages(Surface):
    """`POST /v1/messages`."""

    name: ClassVar[str] = "messages"
    path: ClassVar[str] = "/v1/messages"
    upstream_path: ClassVar[str] = "messages"
    answer_name: ClassVar[str] = "message"
    passed_headers: ClassVar[tuple[str, ...]] = (VERSION_HEADER, "anthropic-beta")
    full_words: ClassVar[tuple[str, ...]] = ("prompt is too long", "exceed context limit")

    def read(self, body: dict[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """Model, messages, their limits and what they need."""
        model, stream = model_of(body), flag(body, "stream")
        messages = objects(body.get("messages"), "messages")
        if not messages:
            raise wrong("messages", messages, "at least one message")
        for index, message in enumerate(messages):
            _check(message, f"messages[{index}]")
        limit = counted(body, "max_tokens", "tokens")
        if limit is None:
            raise wrong("max_tokens", None, "the most tokens the answer may have")
        passed = {name: headers[name] for name in self.passed_headers if name in headers}
        for name, value in passed.items():
            if not value.isascii():
                raise wrong(name, value, "a header of ASCII characters")
        written = [body.get("system"), [m.get("content") for m in messages], body.get("tools")]
        return ChatRequest(
            body=Body(body, surface=self.name, headers=passed),
            model=model,
            stream=stream,
            wants_usage=True,
            text=human_ask(messages),
            needs=_needs(body),
            characters=characters(written),
            max_output=limit,
            turns=len(messages),
        )

    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """It has content."""
        return answer.get("type") == "message" and isinstance(answer.get("content"), list)

    def is_piece(self, piece: Mapping[str, Any]) -> bool:
        """It says of what type it is."""
        return isinstance(piece.get("type"), str)

    def take(self, answer: Mapping[str, Any], reading: Reading) -> None:
        """Usage comes at the start, and what changed of it with the stop reason."""
        kind = answer.get("type")
        if kind == "content_block_delta":
            delta = _object(answer, "delta")
            reading.characters += sum(characters(delta.get(name)) for name in _WRITTEN)
            return
        message = _object(answer, "message") if kind == "message_start" else answer
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                reading.characters += sum(characters(block.get(name)) for name in _WRITTEN)
        reported = message.get("usage")
        if isinstance(reported, dict):
            known = {name: value for name, value in reported.items() if value is not None}
            reading.reported |= known
            reading.tier = tier_of(known) or reading.tier
            usage = read_anthropic(reading.reported)
            # Servers that learn what was used at the end say 0 at the start, which bills nothing.
            if usage is not None and (usage.input or usage.output):
                reading.usage = usage
        reason = (_object(answer, "delta") if kind == "message_delta" else message).get(
            "stop_reason"
        )
        reading.finish_reason = reason if isinstance(reason, str) else reading.finish_reason

    def ends(self, piece: Mapping[str, Any]) -> bool:
        """The event that Anthropic sends last."""
        return piece.get("type") == "message_stop"

    def error(self, error: ApiError) -> dict[str, Any]:
        """Anthropic's error object, whose type follows from the status."""
        kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else _TYPES[400])
        return _error(kind, error.message)

    def broken(self, message: str, code: str) -> sse.Event:
        """Anthropic's event `error`."""
        return sse.Event(json.dumps(_error("api_error", message)), "error")


def _check(message: dict[str, Any], where: str) -> None:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise wrong(f"{where}.role", role, "user or assistant")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise wrong(f"{where}.content", content, "a string or a list of content blocks")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise wrong(f"{where}.content[{index}]", block, "an object with a type")


def _needs(body: Mapping[str, Any]) -> frozenset[str]:
    """Capabilities that the tools and the blocks of all messages ask for."""
    found = {"tools"} if body.get("tools") else set()
    for block in _blocks(body["messages"]):
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if block["type"] == "image" or (block["type"] == "document" and kind not in _TEXT_SOURCES):
            found.add("vision")
    return frozenset(found)


def _blocks(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Content blocks, those inside results of tools included; arguments of tools are no blocks."""
    for message in messages:
        for block in message["content"] if isinstance(message["content"], list) else ():
            yield from [block] if block["type"] == "tool_use" else typed(block)


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


MESSAGES = Messages()
