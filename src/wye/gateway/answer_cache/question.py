"""What of a request decides its answer, so that only an equal request gets an answer again.

Everything counts: surface, destination, the whole body and the headers that belong to it, sampling
parameters too. Left out is what only names the client or the provider's bookkeeping, and whether
usage is wanted at the end of a stream, which is filtered as the answer is sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.gateway.answer_cache.settings import AnswerCacheTable
from wye.gateway.openai_api import ChatRequest
from wye.gateway.surfaces import Body, surface_of

_NOT_OF_THE_ANSWER = {
    "model", "stream", "user", "metadata", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
}  # fmt: skip
_TEXT_PARTS = ("text", "input_text")
_FIELDS = {"chat": "messages", "messages": "messages", "responses": "input"}


@dataclass(slots=True)
class Question:
    """A request that the cache may know.

    Attributes:
        key: digest of everything that decides the answer.
        looks: whether the client takes an answer that was given before.
        keeps: whether the answer to this request may be kept.
        group: digest of everything but the last text; None where it is compared exactly alone.
        text: the last text, where there is a group.
        vector: of the text, once it was embedded.
    """

    key: str
    looks: bool
    keeps: bool
    group: str | None = None
    text: str = ""
    vector: NDArray[np.float32] | None = None


def question_of(
    chat: ChatRequest,
    table: AnswerCacheTable,
    *,
    owner: str | None,
    destination: str,
    headers: Mapping[str, str],
) -> Question | None:
    """The question of a request; None where no answer may be given again or kept.

    Args:
        owner: the key that asks.
        destination: the policy or target that would answer.
        headers: of the client; `cache-control` says `no-cache` or `no-store`.
    """
    wishes = {part.strip().lower() for part in headers.get("cache-control", "").split(",")}
    if "no-store" in wishes or not _repeatable(chat, table):
        return None
    body = chat.body
    rest = {name: body[name] for name in body if name not in _NOT_OF_THE_ANSWER}
    options = rest.get("stream_options")
    if isinstance(options, dict):
        rest["stream_options"] = {k: v for k, v in options.items() if k != "include_usage"}
    around = [
        "shared" if table.shared else owner,
        surface_of(body).name,
        body.headers if isinstance(body, Body) else {},
        destination,
        chat.stream,
    ]
    looks = "no-cache" not in wishes
    question = Question(_digest([*around, rest]), looks, keeps=True)
    text = _last_text(chat) if table.semantic else None
    if text is not None and 0 < len(text) <= table.max_characters:
        question.group = _digest([*around, _without_last_text(chat, rest)])
        question.text = text
    return question


def _repeatable(chat: ChatRequest, table: AnswerCacheTable) -> bool:
    body = chat.body
    if surface_of(body).kept(body) is not None:
        return False
    temperature = body.get("temperature")
    warm = isinstance(temperature, int | float) and temperature > 0
    return table.sampled or not warm or body.get("seed") is not None


def _last_text(chat: ChatRequest) -> str | None:
    """What the person asks last, where that is one text and nothing but text is in the request."""
    surface, body = surface_of(chat.body).name, chat.body
    field = _FIELDS.get(surface)
    if field is None or chat.needs or body.get("n") not in (None, 1):
        return None
    given = body.get(field)
    if isinstance(given, str):
        return given
    last = given[-1] if isinstance(given, list) and given else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        content = part.get("text") if part.get("type") in _TEXT_PARTS else None
    return content if isinstance(content, str) else None


def _without_last_text(chat: ChatRequest, rest: Mapping[str, Any]) -> dict[str, Any]:
    field = _FIELDS[surface_of(chat.body).name]
    given = rest[field]
    if isinstance(given, str):
        return {**rest, field: None}
    last = {name: value for name, value in given[-1].items() if name != "content"}
    return {**rest, field: [*given[:-1], last]}


def _digest(value: Any) -> str:
    written = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()
