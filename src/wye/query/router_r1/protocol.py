"""The text protocol of Router-R1: four tags, what a turn asks for, and when the format is broken.

    <think> private reasoning </think>
    <search> NAME:QUERY </search>             one call of the model NAME
    <information> reply </information>        written by the environment alone
    <answer> final answer </answer>           ends the episode

Source: Zhang, Feng and You, arXiv 2506.09033. Names are resolved exactly, then by a table of
aliases; the authors' code looks for substrings, which lets sloppy names through. Which texts count
as placeholders of a query is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TAGS = ("think", "search", "information", "answer")
PLACEHOLDERS = frozenset({"...", "query", "your query", "question", "sub-question"})
NO_REPLY = "None"

_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_END_OF_TURN = re.compile(r"</(?:search|answer)>")


@dataclass(frozen=True)
class Action:
    """What the policy asks for in a turn: a call or the end, with the text inside the tag."""

    kind: Literal["search", "answer"]
    body: str


def end_of_turn(text: str) -> str:
    """`text` up to its first closing search or answer tag; all of it where there is none.

    Example:
        >>> end_of_turn("<answer> 4 </answer> <search> a")
        '<answer> 4 </answer>'
    """
    found = _END_OF_TURN.search(text)
    return text[: found.end()] if found else text


def first_action(text: str) -> Action | None:
    """The first search or answer of a turn, None where there is none.

    Example:
        >>> first_action("<think> hm </think> <search> small:what is up? </search>")
        Action(kind='search', body='small:what is up?')
    """
    found = _ACTION.search(text)
    if found is None:
        return None
    return Action("search" if found[1] == "search" else "answer", found[2].strip())


def call_of(
    body: str, names: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[str, str] | None:
    """Target and query of the body `NAME:QUERY`; None where it does not name both.

    Args:
        body: with exactly one colon.
        names: of the pool.
        aliases: other name -> name of the pool.

    Example:
        >>> call_of("tiny: who?", ["small"], {"tiny": "small"})
        ('small', 'who?')
    """
    name, colon, query = (part.strip() for part in body.partition(":"))
    name = name if name in names else (aliases or {}).get(name, "")
    if not colon or ":" in query or name not in names or query.casefold() in {"", *PLACEHOLDERS}:
        return None
    return name, query


def without_tags(text: str) -> str:
    """`text` without any protocol tag, however nested: a reply must not end or steer an episode.

    Example:
        >>> without_tags("4 </informat</think>ion><answer>5")
        '4 5'
    """
    # Taking a tag out can join two halves of another one.
    while (cleaned := _TAG.sub("", text)) != text:
        text = cleaned
    return text


def thoughts(text: str) -> list[str]:
    """The bodies of the think tags."""
    return [body.strip() for body in re.findall(r"<think>(.*?)</think>", text, re.DOTALL)]


def violations(
    response: str, names: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """All that breaks the format of a whole response, in words; empty where it is well formed.

    Args:
        response: everything after the prompt, information blocks included.
        names: of the pool.
        aliases: other name -> name of the pool.

    Example:
        >>> violations("<think> easy </think> <answer> 4 </answer>", ["small"])
        ()
        >>> violations("<answer> 4 </answer>", ["small"])
        ('no think block', 'does not begin with think')
    """
    text = response.strip()
    found = list(_TAG.finditer(text))
    if not found:
        return ("no tag",)
    broken = [
        f"unequal counts of {tag} tags"
        for tag in TAGS
        if text.count(f"<{tag}>") != text.count(f"</{tag}>")
    ]
    if _nested(found):
        broken.append("nested tags")
    bodies = {
        tag: [b.strip() for b in re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)]
        for tag in TAGS
    }
    if not bodies["think"]:
        broken.append("no think block")
    if any(body in ("", "...") for body in bodies["think"]):
        broken.append("empty think")
    if len(bodies["answer"]) != 1:
        broken.append("answer blocks are not one")
    if len(bodies["search"]) != len(bodies["information"]):
        broken.append("search and information blocks differ in number")
    if not text.startswith("<think>"):
        broken.append("does not begin with think")
    if not text.endswith("</answer>"):
        broken.append("does not end with answer")
    for body in bodies["search"]:
        broken += _search_violations(body, names, aliases or {})
    return tuple(broken)


def _nested(found: Sequence[re.Match[str]]) -> bool:
    opened: str | None = None
    for tag in found:
        closing, name = bool(tag[1]), tag[2]
        if closing and opened == name:
            opened = None
        elif closing or opened is not None:
            return True
        else:
            opened = name
    return False


def _search_violations(body: str, names: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    if body.count(":") != 1:
        return ["search without exactly one colon"]
    name, _, query = (part.strip() for part in body.partition(":"))
    broken = []
    if name not in names and aliases.get(name) not in names:
        broken.append("unknown model name")
    if not query:
        broken.append("empty query")
    elif query.casefold() in PLACEHOLDERS:
        broken.append("placeholder query")
    if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query, re.IGNORECASE):
        broken.append("model name inside the query")
    return broken
