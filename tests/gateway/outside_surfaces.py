"""How the outside world answers on `/v1/messages`, `/v1/responses` and `/v1/embeddings`.

The model's name says how, as in `outside_world.py`, which runs this: `ok` answers, `cut-midway`
ends a stream before it is finished, `overloaded` sends an error event in the middle, `too-long` and
`refuse` refuse the prompt, `failed` says that the answer failed. Lines end in CRLF where the name
has `crlf`, and then data comes in several lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

WORDS = ["Forty", "-two", " it", " is", "."]
Event = dict[str, Any]


def whole(path: str, model: str) -> tuple[int, Event]:
    """Status and body of an answer that is not streamed."""
    kind = model.split("@")[0]
    if kind == "too-long":
        said = {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8"}
        return 400, {"type": "error", "error": said}
    if kind == "refuse":
        said = {"type": "invalid_request_error", "message": "top_j: Extra inputs are not permitted"}
        return 400, {"type": "error", "error": said}
    if kind == "500":
        said = {"type": "api_error", "message": "trouble"}
        return 500, {"type": "error", "error": said}
    if path.endswith("/count_tokens"):
        return 200, {"input_tokens": 42}
    if path.endswith("/embeddings"):
        return 200, embeddings(model)
    if path.endswith("/messages"):
        text = {"type": "text", "text": "".join(WORDS), "citations": None}
        return 200, message(model, [text], "end_turn", tokens(5))
    return 200, response(model, "failed" if kind == "failed" else "completed")


def pieces(path: str, model: str) -> Iterator[Event]:
    """Events of a stream, each of which names its type."""
    kind = model.split("@")[0]
    events = message_events(model) if path.endswith("/messages") else response_events(model)
    for number, event in enumerate(events):
        if number == 5 and kind == "cut-midway":
            return
        if number == 5 and kind == "overloaded":
            yield {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            return
        yield event


def wire(event: Event, model: str) -> bytes:
    """An event as bytes; with `crlf` in the name its data spreads over lines."""
    if "crlf" not in model:
        return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    lines = json.dumps(event, indent=1).split("\n")
    data = "".join(f"data:{line}\r\n" for line in lines)
    return f": keep\r\nevent: {event['type']}\r\n{data}id: 7\r\n\r\n".encode()


def tokens(output: int) -> Event:
    """Anthropic's usage, with both of its caches and the breakdown of the output."""
    return {
        "input_tokens": 7,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": min(2, output)},
        "service_tier": "standard",
    }


def message(model: str, content: list[Event], reason: str | None, usage: Event) -> Event:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
        "from_tomorrow": {"kept": True},
    }


def message_events(model: str) -> Iterator[Event]:
    yield {"type": "message_start", "message": message(model, [], None, tokens(1))}
    yield {"type": "ping"}
    yield {
        "type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""},
    }  # fmt: skip
    for word in WORDS:
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def response(model: str, status: str) -> Event:
    text = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
    item = {"type": "message", "id": "item_1", "role": "assistant", "status": "completed"}
    done = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "error": {"code": "server_error", "message": "it broke"} if status == "failed" else None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [{**item, "content": [text]}] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": 30,
            "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 39,
        } if done else None,
        "from_tomorrow": {"kept": True},
    }  # fmt: skip


def response_events(model: str) -> Iterator[Event]:
    for number, event in enumerate(_response_events(model)):
        yield {**event, "sequence_number": number}


def _response_events(model: str) -> Iterator[Event]:
    where = {"item_id": "item_1", "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "response": response(model, "in_progress")}
    yield {"type": "response.in_progress", "response": response(model, "in_progress")}
    item = {"type": "message", "id": "item_1", "role": "assistant", "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": []}
    opened = {"type": "response.output_item.added", "output_index": 0}
    yield {**opened, "item": {**item, "content": []}}
    yield {"type": "response.content_part.added", "part": part, **where}
    for word in WORDS:
        yield {"type": "response.output_text.delta", "delta": word, "logprobs": [], **where}
    yield {
        "type": "response.output_text.done", "text": "".join(WORDS), "logprobs": [], **where,
    }  # fmt: skip
    yield {"type": "response.completed", "response": response(model, "completed")}


def embeddings(model: str) -> Event:
    vectors = ([0.5, -0.25, 0.125], [0.0, 1.0, 0.0])
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }
