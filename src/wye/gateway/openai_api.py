"""OpenAI's chat completion wire format: what is read of a request, and how answers are shaped.

`ChatRequest` is what routing and billing know of a request of any surface (`wye.gateway.surfaces`).
Only what routing and billing need is read; every other field passes to the upstream untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request

from wye.gateway.errors import ApiError, bad_request
from wye.gateway.nesting import deeper_than
from wye.gateway.providers.carried import Carried, UncarriedError
from wye.query.ask import human_ask

# How long, and how much of, a body that is too long is read to its end.
_PASS_SECONDS = 5.0
_PASS_BYTES = 64 * 1024 * 1024
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# What is read must be written again, in whatever depth of calls that is done.
_LEVELS = 500
_DIGITS = sys.get_int_max_str_digits()
# As much as the integers of most languages hold, which clients send where they mean "no limit".
_MOST = 2**31 - 1
_PART_TAGS = {"image_url": "vision", "input_audio": "audio"}


@dataclass(frozen=True)
class ChatRequest:
    """A valid request.

    Attributes:
        body: the request as it came; of another surface than chat a `surfaces.Body`.
        model: what the client asked for.
        stream: whether the answer comes in pieces.
        wants_usage: whether the client asked for usage at the end of a stream.
        text: what the choice is made on: what the person asks (`wye.query.ask`).
        needs: capabilities a target must have, a subset of {"tools", "vision", "audio"}.
        characters: length of all text in the messages, for an estimate of tokens.
        max_output: most tokens the client lets the answer have, or None.
        turns: how many messages, or inputs, it has.
        carried: what translations carry of it, by their kind, once it is worked out.
    """

    body: Mapping[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    text: str
    needs: frozenset[str]
    characters: int
    max_output: int | None
    turns: int = 1
    carried: dict[str, Carried | UncarriedError] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def input_tokens_estimate(self) -> int:
        """Rough count of input tokens: four characters each, the rule of thumb for English."""
        return max(1, math.ceil(self.characters / 4))


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body.

    Args:
        limit: most bytes accepted.

    Raises:
        ApiError: 413 when longer; decided from the header where it tells, before reading.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        # Who waits to be told to go on sends nothing before that.
        if request.headers.get("expect", "").lower() != "100-continue":
            await _let_pass(request.stream())
        raise _too_large(int(declared), limit)
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        size += len(parts[-1])
        if size > limit:
            if more:
                await _let_pass(request.stream())
            raise _too_large(size, limit)
    return b"".join(parts)


async def _let_pass(stream: AsyncIterator[bytes]) -> None:
    """Read on for a while and keep nothing.

    A connection that is closed while its client still writes is reset, and the client never reads
    why.
    """
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_PASS_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > _PASS_BYTES:
                    return


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object as RFC 8259 has it: UTF-8, finite numbers, whole characters.

    Raises:
        ApiError: 400 that says what is wrong.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(
            f"the body is not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}); "
            "send JSON encoded as UTF-8"
        ) from None
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            raise bad_request(
                "the body is not JSON: it begins with a byte order mark; save it without one"
            ) from None
        raise bad_request(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except _TwiceError as error:
        raise bad_request(
            f"an object has the field {str(error)[:80]!r} twice; which one holds is anybody's guess"
        ) from None
    except _NumberError as error:
        raise bad_request(f"the body has a number that cannot be used: {error}") from None
    except ValueError:
        # Python's own words are about Python.
        raise bad_request(
            f"the body has a number that cannot be used: more than {_DIGITS} digits"
        ) from None
    if text.count("[") + text.count("{") > _LEVELS and deeper_than(_LEVELS, value):
        raise _too_deep()
    if not isinstance(value, dict):
        raise bad_request(f"the body is a JSON {json_type(value)}; expected an object")
    if "\\u" in text and not _encodable(value):
        raise bad_request(
            "the body has half a surrogate pair (\\ud800 to \\udfff alone), which is no character; "
            "a string was probably cut in the middle of an emoji"
        )
    return value


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Check the fields that routing depends on.

    Raises:
        ApiError: 400 that names the field, what it was and what was expected.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", model, 'a name, for instance "wye"')
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise wrong("stream", stream, "true or false")
    options = body.get("stream_options")
    if not isinstance(options, dict | None):
        raise wrong("stream_options", options, "an object")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise wrong("messages", messages, "a list of messages")
    if not messages:
        raise bad_request("messages is empty; send at least one message", param="messages")
    characters, tags = 0, set()
    for index, message in enumerate(messages):
        size, found = _check_message(message, f"messages[{index}]")
        characters += size
        tags |= found
    if body.get("tools") or body.get("functions"):
        tags.add("tools")
    # As money is set aside for so many, it must be what the upstream reads too.
    counted(body, "n", "choices")
    return ChatRequest(
        body=body,
        model=model,
        stream=bool(stream),
        wants_usage=bool((options or {}).get("include_usage")),
        text=human_ask(messages),
        needs=frozenset(tags),
        characters=characters,
        max_output=_max_output(body),
        turns=len(messages),
    )


def completion(
    *,
    answer_id: str,
    model: str,
    text: str,
    finish_reason: str,
    usage: Mapping[str, Any],
) -> dict[str, Any]:
    """A `chat.completion` object with one choice."""
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": dict(usage),
    }


def chunk(
    *,
    answer_id: str,
    model: str,
    delta: Mapping[str, Any] | None,
    finish_reason: str | None = None,
    usage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A `chat.completion.chunk` object; without `delta` it has no choice and carries `usage`."""
    choice = {"index": 0, "delta": dict(delta or {}), "finish_reason": finish_reason}
    piece: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": [] if delta is None else [choice],
    }
    if usage is not None:
        piece["usage"] = dict(usage)
    return piece


def _check_message(message: Any, where: str) -> tuple[int, set[str]]:
    """Length of a message's text and the capabilities its parts ask for."""
    if not isinstance(message, dict):
        raise wrong(where, message, "an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise wrong(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return len(content), set()
    if content is None:
        if role == "assistant":
            return 0, set()
        raise bad_request(f"{where}.content is missing", param=f"{where}.content")
    if not isinstance(content, list):
        raise wrong(f"{where}.content", content, "a string or a list of parts")
    size, tags = 0, set()
    for index, part in enumerate(content):
        spot = f"{where}.content[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise wrong(spot, part, "an object with a type")
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise wrong(f"{spot}.text", part.get("text"), "a string")
            size += len(part["text"])
        elif part["type"] in _PART_TAGS:
            tags.add(_PART_TAGS[part["type"]])
    return size, tags


def _max_output(body: Mapping[str, Any]) -> int | None:
    """The larger of both limits: which of them an upstream reads is its own affair."""
    limits = [counted(body, name, "tokens") for name in ("max_completion_tokens", "max_tokens")]
    return max((limit for limit in limits if limit is not None), default=None)


def counted(body: Mapping[str, Any], name: str, what: str) -> int | None:
    """A field that is a whole number from 1 on, written as one; None where it is missing.

    Raises:
        ApiError: it is something else.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise wrong(name, value, f"a whole number of {what}, at least 1 and at most {_MOST}")
    return value


def _too_large(size: int, limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body has {size} bytes or more, the limit is {limit}; send less, or raise "
        "server.max_body_mb in wye.toml",
        code="body_too_large",
    )


def wrong(name: str, value: Any, expected: str) -> ApiError:
    """A 400 for a field that is not what was expected."""
    shown = json.dumps(value)[:60] if isinstance(value, str | int | float) else json_type(value)
    return bad_request(f"{name} is {shown}; expected {expected}", param=name)


def json_type(value: Any) -> str:
    """JSON's own name for the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


class _NumberError(ValueError):
    """A number that JSON has not, or no float holds."""


class _TwiceError(Exception):
    """An object has two fields of this name."""


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        raise _TwiceError(Counter(name for name, _ in fields).most_common(1)[0][0])
    return found


def no_constant(name: str) -> float:
    """Refuse NaN and the infinities, which Python reads and JSON has not."""
    raise _NumberError(f"{name} is no JSON number")


def finite(text: str) -> float:
    """Refuse a number that no float holds, which would be written as no JSON."""
    value = float(text)
    if not math.isfinite(value):
        raise _NumberError(f"{text[:40]} is too large")
    return value


# Made once: `json.loads` would make one for every request.
_JSON = json.JSONDecoder(parse_constant=no_constant, parse_float=finite, object_pairs_hook=_unique)


def _too_deep() -> ApiError:
    return bad_request(f"the body is nested too deeply to be read: more than {_LEVELS} levels")


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
