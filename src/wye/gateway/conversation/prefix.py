"""What of a request a provider's prompt cache could hold: its prefixes, by hash and length.

Providers cache a prompt from its start: tools, system, messages in order. A hash is chained over
them in this order, so that two requests have a hash in common exactly as far as their prompts
begin alike. `cache_control` only marks, so it is left out of the hash, and a text alone is the same
as a list with that text alone: clients move the mark from turn to turn.

Hashes are Python's own, of strings keyed anew in every process (SipHash), so nobody can aim at a
collision; they mean nothing to another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wye.gateway.openai_api import ChatRequest
from wye.gateway.surfaces import surface_of
from wye.gateway.surfaces.fields import NO_TEXT

_MARK = "cache_control"
# Of each surface: what stands before the messages, where they are, and what else a prefix of
# messages depends on.
_LAYOUT: Mapping[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "chat": (("tools", "functions", "response_format"), "messages", ()),
    "messages": (("tools", "system"), "messages", ("tool_choice", "thinking")),
    "responses": (("tools", "text", "instructions"), "input", ()),
}
_HEAD_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Prefix:
    """The prefixes of one request, shortest first.

    Attributes:
        keys: a hash of each, the whole prompt last.
        characters: text in each.
        head: position of the prefix of tools and system alone.
        marked: position of the longest one that the request marks to be cached; None without.
    """

    keys: tuple[int, ...]
    characters: tuple[int, ...]
    head: int
    marked: int | None

    def share(self, position: int) -> float:
        """Share of the prompt's text that a prefix has."""
        return self.characters[position] / max(1, self.characters[-1])


def prefix_of(chat: ChatRequest, owner: str | None) -> Prefix | None:
    """The prefixes of a request; None where its surface has none, or it is nested too deeply.

    Args:
        owner: whoever else asks the same has other hashes.
    """
    try:
        return _chain(chat, owner)
    except RecursionError:
        return None


def session_of(chat: ChatRequest, owner: str | None, session: str) -> Prefix:
    """The one prefix of a request that is told by the name of its session.

    Whether the request marks it is not looked for; a provider tells in its usage what it cached.
    """
    key = hash((owner, surface_of(chat.body).name, "session", session))
    return Prefix((key,), (chat.characters,), 0, 0)


def _chain(chat: ChatRequest, owner: str | None) -> Prefix | None:
    surface = surface_of(chat.body).name
    layout = _LAYOUT.get(surface)
    if layout is None:
        return None
    before, where, beside = layout
    body = chat.body
    head, size, marked_head = _print([body.get(name) for name in before])
    keys, characters = [hash((owner, surface, head))], [size]
    marked = 0 if marked_head else None
    given = body.get(where)
    messages = given if isinstance(given, list) else [given]
    beside_it = tuple(_print(body.get(name))[0] for name in beside)
    key, leading = keys[0], True
    head_at = 0
    for position, message in enumerate(messages, start=1):
        found, length, marks = _print(message)
        leading = leading and isinstance(message, dict) and message.get("role") in _HEAD_ROLES
        if leading:
            head_at = position
        key = hash((key, found, beside_it))
        size += length
        keys.append(key)
        characters.append(size)
        marked = position if marks else marked
    if body.get(_MARK):
        marked = len(messages)
    return Prefix(tuple(keys), tuple(characters), head_at, marked)


def _print(value: Any) -> tuple[int, int, bool]:
    """Hash, length of text, and whether a mark is inside."""
    if isinstance(value, str):
        return hash(value), len(value), False
    if isinstance(value, dict):
        return _print_object(value)
    if isinstance(value, list):
        if len(value) == 1 and (text := _text_alone(value[0])) is not None:
            return hash(text), len(text), _MARK in value[0]
        parts, size, marked = [], 0, False
        for item in value:
            found, length, marks = _print(item)
            parts.append(found)
            size += length
            marked = marked or marks
        return hash(tuple(parts)), size, marked
    return hash((type(value).__name__, value)), 0, False


def _print_object(value: Mapping[str, Any]) -> tuple[int, int, bool]:
    if len(value) == 2:
        # Most messages are a role and a text.
        role, content = value.get("role"), value.get("content")
        if type(role) is str and type(content) is str:
            both = (("content", hash(content)), ("role", hash(role)))
            return hash(both), len(role) + len(content), False
    parts, size, marked = [], 0, False
    for name in sorted(value):
        if name == _MARK:
            marked = marked or value[name] is not None
            continue
        found, length, marks = _print(value[name])
        parts.append((name, found))
        size += 0 if name in NO_TEXT else length
        marked = marked or marks
    return hash(tuple(parts)), size, marked


def _text_alone(part: Any) -> str | None:
    """The text of a part that has nothing else but a mark."""
    if not isinstance(part, dict) or part.get("type") != "text":
        return None
    text = part.get("text")
    return text if isinstance(text, str) and not part.keys() - {"type", "text", _MARK} else None
