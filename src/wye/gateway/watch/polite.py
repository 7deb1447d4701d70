"""An answer that the gateway gives itself, in the shape of the surface that was asked.

Nothing was used, so nothing is billed; `model` says who speaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from wye.gateway.openai_api import ChatRequest, chunk, completion
from wye.gateway.records import new_id
from wye.gateway.surfaces import MESSAGES, RESPONSES, surface_of
from wye.gateway.upstream import Upstream

_NAME = "wye/guard"
_NONE = {"input_tokens": 0, "output_tokens": 0}
_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class Polite(Upstream):
    """Says one text, whatever it is asked.

    Args:
        chat: the request, for the shape of the answer.
        text: what is said.
    """

    def __init__(self, chat: ChatRequest, text: str) -> None:
        self._surface = surface_of(chat.body)
        self._text = text

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        if self._surface is MESSAGES:
            return _message([{"type": "text", "text": self._text}], "end_turn")
        if self._surface is RESPONSES:
            return _response("completed", [_item(self._text)])
        return completion(
            answer_id=f"chatcmpl-{new_id()}",
            model=_NAME,
            text=self._text,
            finish_reason="stop",
            usage=_NO_TOKENS,
        )

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The same in pieces."""
        if self._surface is MESSAGES:
            found = _message_pieces(self._text)
        elif self._surface is RESPONSES:
            found = _response_pieces(self._text)
        else:
            found = _chat_pieces(self._text)
        for piece in found:
            yield piece


def _chat_pieces(text: str) -> list[dict[str, Any]]:
    name = f"chatcmpl-{new_id()}"
    said = {"role": "assistant", "content": text}
    return [
        chunk(answer_id=name, model=_NAME, delta=said),
        chunk(answer_id=name, model=_NAME, delta={}, finish_reason="stop"),
        chunk(answer_id=name, model=_NAME, delta=None, usage=_NO_TOKENS),
    ]


def _message(content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    return {
        "id": f"msg_{new_id()}",
        "type": "message",
        "role": "assistant",
        "model": _NAME,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": dict(_NONE),
    }


def _message_pieces(text: str) -> list[dict[str, Any]]:
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": _message([], None)},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 0}},
        {"type": "message_stop"},
    ]


def _item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": f"msg_{new_id()}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def _response(status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"resp_{new_id()}",
        "object": "response",
        "created_at": 0,
        "status": status,
        "model": _NAME,
        "output": output,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "usage": {
            **_NONE,
            "total_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _response_pieces(text: str) -> list[dict[str, Any]]:
    item = _item(text)
    place: Mapping[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    part = item["content"][0]
    begun, ended = _response("in_progress", []), _response("completed", [item])
    ended["id"] = begun["id"]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": empty},
        {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": ended},
    ]
    return [{**event, "sequence_number": n} for n, event in enumerate(events)]
