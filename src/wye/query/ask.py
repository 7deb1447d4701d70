"""The human's ask: which text of a conversation the choice of a model is made on.

Agents wrap a short request in long system prompts, tool results, retrieved documents and reminders.
Routing on all of that routes on the wrapper: every request of one agent looks alike. Only what a
person asked is read:

1. messages of the role `user` alone; of those, neither tool results nor observations of a loop;
2. inside them, what stands in a tag that names the request, else everything outside tags that
   frameworks put around context;
3. of a prompt in one piece, the part behind the last label such as `Question:`;
4. a bare "go on" takes the ask before it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wye.query.base import RouterError

MAX_CHARS = 8_000
# Of a longer message only both ends are searched: a request takes no seconds to read.
SEARCHED_CHARS = 200_000
# A label only ends a preamble that is too long to be part of the ask.
PREAMBLE_CHARS = 300
CONTINUATION_WORDS, CONTINUATION_CHARS = 4, 60

# Chat completions and Anthropic's messages; OpenAI's responses; parts without a type.
_TEXT_PARTS = ("text", "input_text", None)

_ASK_TAGS = "user_query|user_request|user_message|user_input|query|question|task|request|ask|prompt"
_CONTEXT_TAGS = (
    "system|system[-_]reminder|system[-_]prompt|environment[-_]details|environment[-_]context|env"
    "|context|contexts|retrieved[-_]?\\w*|documents?|search[-_]results?|sources?|passages?"
    "|tool[-_]?\\w*|function[-_]\\w+|observations?|outputs?|results?|stdout|stderr|logs?"
    "|file|files|file[-_]contents?|attached[-_]files?|open[-_]files?|editor[-_]\\w+|workspace\\w*"
    "|project[-_]\\w+|repo\\w*|git[-_]\\w+|user[-_]info|user[-_]rules|rules|instructions|examples?"
    "|history|conversation|memory|memories|thinking|scratchpad|metadata|attachments?"
)
_ASK = re.compile(rf"(?:{_ASK_TAGS})", re.I)
_CONTEXT = re.compile(rf"(?:{_CONTEXT_TAGS})", re.I)
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]{0,40})(?:\s[^<>]{0,300})?>")
_BLOB_CHARS = 400
_BLOB = re.compile(rf"(?:data:[\w/+.-]+;base64,)?[A-Za-z0-9+/]{{{_BLOB_CHARS},}}={{0,2}}")
_OBSERVATION = re.compile(
    r"\s*(?:\[?(?:tool|function|command)[ _-]?(?:result|output|response|call)s?\b[^\n]*"
    r"|observation\s*:|result of (?:running|calling)\b|exit code\s*:)",
    re.I,
)
_LABEL = re.compile(
    r"(?:^|\n)[ \t#*]*(?:user(?:'s)? (?:question|query|request|input|message)|user|human|question"
    r"|query|task|request|input)[ \t*]*:[ \t*]*",
    re.I,
)
_AFTER = re.compile(
    r"\n[ \t#*]*(?:assistant|ai|answer|final answer|thought|response|output|helpful answer)"
    r"[ \t*]*:",
    re.I,
)
_CONTINUATION = re.compile(
    r"\W*(?:yes|yep|ok|okay|sure|please|thanks|thank you|go|on|ahead|continue|proceed|next|more"
    r"|again|retry|try|it|do|that|keep|going|si|sí|oui|ja|weiter|continua|continúa|continuer|да"
    r"|продолжай|继续|続けて|계속)(?:\W+|$)",
    re.I,
)


def human_ask(messages: Sequence[Mapping[str, Any]], *, max_chars: int = MAX_CHARS) -> str:
    """What the person of a conversation asks for, as one text; empty where nobody asks anything.

    Args:
        messages: of the formats of chat completions, Anthropic's messages or the items of OpenAI's
            responses; content is a string or a list of parts. What is no message is not read.
        max_chars: of a longer ask the beginning and the end are kept.

    Raises:
        RouterError: `messages` is no sequence of messages.

    Example:
        >>> human_ask([
        ...     {"role": "system", "content": "You are an agent with 40 tools ..."},
        ...     {"role": "user", "content": "<context>12 files</context>\\nWhy is the sky blue?"},
        ...     {"role": "assistant", "content": None, "tool_calls": []},
        ...     {"role": "tool", "content": "a page of search results"},
        ... ])
        'Why is the sky blue?'
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise RouterError(
            f"messages is {type(messages).__name__}, expected a list of chat messages; of one text "
            "ask_of_text(text) reads the ask"
        )
    asks: list[str] = []
    fallback = ""
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RouterError(
                f"messages[{place}] is {type(message).__name__}, expected a message such as "
                '{"role": "user", "content": "..."}'
            )
        if message.get("role") != "user":
            continue
        text = _own_words(message.get("content"))
        if not text.strip():
            continue
        fallback = text
        found = ask_of_text(text)
        if found:
            asks.append(found)
    if not asks:
        return _both_ends(fallback.strip(), max_chars)
    ask = asks[-1]
    if _is_continuation(ask):
        before = next((a for a in reversed(asks[:-1]) if not _is_continuation(a)), "")
        ask = f"{before}\n{ask}" if before else ask
    return _both_ends(ask, max_chars)


def ask_of_text(text: str) -> str:
    """The ask inside one text of a user; empty where it is an observation or context alone.

    Example:
        >>> ask_of_text("<system-reminder>be brief</system-reminder>What is 2 + 2?")
        'What is 2 + 2?'
    """
    text = _both_ends(text, SEARCHED_CHARS)
    if _OBSERVATION.match(text):
        return ""
    text = _without(text, _spans(text, _CONTEXT))
    named = _spans(text, _ASK)
    inside = _TAG.sub(" ", text[slice(*named[-1])]) if named else ""
    ask = inside.strip() or text
    if len(ask) >= _BLOB_CHARS:
        ask = _BLOB.sub(" ", ask)
    return _behind_label(ask).strip()


def _own_words(content: Any) -> str:
    """Text that the user wrote, without parts that carry results of tools or media."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return ""
    parts = [p for p in content if isinstance(p, Mapping) and p.get("type") in _TEXT_PARTS]
    # Each part counts by itself: reminders and pasted results come as parts of their own.
    return "\n".join(str(p.get("text") or "") for p in parts)


def _spans(text: str, names: re.Pattern[str]) -> list[tuple[int, int]]:
    """Begin and end of the outermost elements whose tag is one of `names`, in one pass.

    A tag that is opened and never closed is part of what was written.
    """
    if "<" not in text:
        return []
    tags = [
        (m.start(), m.end(), bool(m.group(1)), m.group(2).lower())
        for m in _TAG.finditer(text)
        if names.fullmatch(m.group(2))
    ]
    last_close = {name: start for start, _, closing, name in tags if closing}
    spans: list[tuple[int, int]] = []
    begin, depth, inside = 0, 0, ""
    for start, end, closing, name in tags:
        if not depth:
            if not closing and last_close.get(name, -1) > start:
                begin, depth, inside = start, 1, name
        elif name == inside:
            depth += -1 if closing else 1
            # The last of its closing tags ends an element, however many were opened in it.
            if not depth or (closing and last_close[name] == start):
                depth = 0
                spans.append((begin, end))
    return spans


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    if not spans:
        return text
    kept, at = [], 0
    for begin, end in spans:
        kept.append(text[at:begin])
        at = end
    return "\n".join([*kept, text[at:]])


def _behind_label(text: str) -> str:
    if ":" not in text:
        return text
    labels = [m for m in _LABEL.finditer(text) if m.end() < len(text)]
    if not labels or labels[-1].start() < PREAMBLE_CHARS:
        return text
    ask = text[labels[-1].end() :]
    ends = _AFTER.search(ask)
    ask = ask if ends is None else ask[: ends.start()]
    return ask if ask.strip() else text


def _is_continuation(ask: str) -> bool:
    if len(ask) > CONTINUATION_CHARS or len(ask.split()) > CONTINUATION_WORDS:
        return False
    rest, before = ask, None
    while rest and rest != before:
        before, rest = rest, _CONTINUATION.sub("", rest, count=1)
    return not rest.strip(" \t\n.!,;:")


def _both_ends(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n{text[len(text) - (max_chars - half - 1) :]}"
