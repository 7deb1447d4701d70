"""Surface: OpenAI's responses, with named events in a stream.

What a provider keeps (earlier responses and their items, conversations, stored prompts, files) is
known to it alone, so a request that rests on it goes to a target by name where there are several
providers.

Source: OpenAI's API reference, "Responses" and "Streaming events".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from wye.gateway import sse
from wye.gateway.errors import bad_request
from wye.gateway.money.tiers import tier_of
from wye.gateway.money.usage import usage_of
from wye.gateway.openai_api import ChatRequest, counted, wrong
from wye.gateway.surfaces.body import Body
from wye.gateway.surfaces.contract import Reading, Surface
from wye.gateway.surfaces.fields import (
    characters,
    flag,
    kept_elsewhere,
    model_of,
    objects,
    typed,
)
from wye.query.ask import human_ask

_KEPT = ("previous_response_id", "conversation", "prompt")
_ENDS = ("response.completed", "response.incomplete")
_NEEDS = {"input_image": "vision", "computer_screenshot": "vision", "input_audio": "audio"}


class Responses(Surface):
    """`POST /v1/responses`."""

    name: ClassVar[str] = "responses"
    path: ClassVar[str] = "/v1/responses"
    upstream_path: ClassVar[str] = "responses"
    answer_name: ClassVar[str] = "response"

    def read(self, body: dict[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """Model, input, limits and what the input needs."""
        if flag(body, "background"):
            raise bad_request(
                "background is true; wye keeps no responses to be fetched later. Leave it out, and "
                "take the answer from this request, streamed or whole",
                param="background",
            )
        items = _items(body)
        return ChatRequest(
            body=Body(body, surface=self.name),
            model=model_of(body),
            stream=flag(body, "stream"),
            wants_usage=True,
            text=human_ask(items),
            needs=_needs(body, items),
            characters=characters([body.get("instructions"), items, body.get("tools")]),
            max_output=counted(body, "max_output_tokens", "tokens"),
            turns=len(items),
        )

    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """It has output."""
        return isinstance(answer.get("output"), list)

    def is_piece(self, piece: Mapping[str, Any]) -> bool:
        """It says of what type it is."""
        return isinstance(piece.get("type"), str)

    def take(self, answer: Mapping[str, Any], reading: Reading) -> None:
        """Text as it comes; the rest from the response object, whole only at the end."""
        delta = answer.get("delta")
        reading.characters += len(delta) if isinstance(delta, str) else 0
        streamed = answer.get("response")
        response = streamed if isinstance(streamed, dict) else answer
        reading.usage = usage_of(response) or reading.usage
        reading.tier = tier_of(response) or reading.tier
        status = response.get("status")
        if status not in ("completed", "incomplete", "failed"):
            return
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        reading.finish_reason = reason if isinstance(reason, str) else str(status)
        if response is answer:
            reading.characters += sum(len(text) for text in _written(answer))

    def ends(self, piece: Mapping[str, Any]) -> bool:
        """The response is whole, or as long as it was allowed to be."""
        return piece.get("type") in _ENDS

    def complaint(self, answer: Mapping[str, Any]) -> str | None:
        """An event `error`, or a response that failed."""
        if answer.get("type") == "error":
            return super().complaint(answer) or str(answer.get("message"))[:500]
        response = answer.get("response")
        return super().complaint(response if isinstance(response, dict) else answer)

    def kept(self, body: Mapping[str, Any]) -> str | None:
        """Earlier responses, conversations and prompts of the provider as well."""
        named = (name for name in _KEPT if body.get(name))
        return next(named, None) or kept_elsewhere(body.get("input"))

    def broken(self, message: str, code: str) -> sse.Event:
        """The event `error` of this API, whose fields stand at the top."""
        said = {"type": "error", "code": code, "message": message, "param": None}
        return sse.Event(json.dumps({**said, "sequence_number": 0}), "error")


def _items(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The input as a list of items; one text is the message of a user."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if given is None and any(body.get(name) for name in _KEPT):
        return []
    items = objects(given, "input")
    if not items:
        raise wrong("input", items, "a text or at least one item")
    return items


def _needs(body: Mapping[str, Any], items: list[dict[str, Any]]) -> frozenset[str]:
    """Capabilities that the tools and the parts of all items ask for."""
    found = {_NEEDS[part["type"]] for part in typed(items) if part["type"] in _NEEDS}
    return frozenset(found | ({"tools"} if body.get("tools") else set()))


def _written(answer: Mapping[str, Any]) -> Iterator[str]:
    """Texts of a whole response."""
    for part in typed(answer.get("output")):
        if part["type"] == "output_text" and isinstance(part.get("text"), str):
            yield part["text"]


RESPONSES = Responses()
