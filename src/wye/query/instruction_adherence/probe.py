"""One probe: a prompt, a program that checks answers to it, and an answer that passes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from wye.query.chat_models.base import ChatModelError

CATEGORIES = (
    "string_manipulation",
    "mathematical_operations",
    "data_processing",
    "format_conversion",
    "constraint_compliance",
)
# What is longer is no answer to a one-line instruction; reading it all would only cost time.
MOST_CHARACTERS = 20_000
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)\n?```$", re.DOTALL)
_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("**", "**"))

Complaint = Callable[[str], str | None]


@dataclass(frozen=True)
class Verdict:
    """What a probe says of an answer.

    Attributes:
        strict: the answer, as it came, follows the instruction.
        lenient: it does so at least without code fences, surrounding quotes and space.
        reason: why not strictly; empty where it does.
    """

    strict: bool
    lenient: bool
    reason: str


@dataclass(frozen=True)
class Probe:
    """One instruction whose following a program can check.

    Attributes:
        name: which of the twenty.
        category: one of `CATEGORIES`.
        prompt: what the model is asked.
        reference: an answer that passes.
        complaint: of an answer, what is wrong with it, or None.
    """

    name: str
    category: str
    prompt: str
    reference: str
    complaint: Complaint = field(repr=False, compare=False)

    def check(self, answer: str) -> Verdict:
        """Judge an answer; any string is judged, none raises."""
        if len(answer) > MOST_CHARACTERS:
            return Verdict(False, False, f"{len(answer)} characters, far more than asked for")
        if not answer.strip():
            return Verdict(False, False, "the answer is empty")
        wrong = self.complaint(answer)
        if wrong is None:
            return Verdict(True, True, "")
        return Verdict(False, self.complaint(unwrapped(answer)) is None, wrong)


def equals(expected: str) -> Complaint:
    """The answer is `expected` and nothing else."""
    return lambda answer: None if answer == expected else f"expected {_short(expected)}"


def unwrapped(answer: str) -> str:
    """An answer without the fences, quotes and space around it.

    Example:
        >>> unwrapped(' ```json\\n"42"\\n``` ')
        '42'
    """
    before = None
    while answer != before:
        before = answer
        answer = answer.strip()
        if fenced := _FENCE.match(answer):
            answer = fenced[1]
        for left, right in _QUOTES:
            inner = answer[len(left) : -len(right)]
            if answer.startswith(left) and answer.endswith(right) and inner and left not in inner:
                answer = inner
    return answer


def without_reasoning(answer: str, tag: str | None) -> str:
    """The answer behind a declared block of reasoning, `<tag>...</tag>`; nothing is guessed.

    Args:
        answer: as the model wrote it.
        tag: name of the block, None where the model declares none.

    Raises:
        ChatModelError: `tag` is no name.
    """
    if tag is None:
        return answer
    if not re.fullmatch(r"[\w-]+", tag):
        raise ChatModelError(f"the tag of reasoning is {tag!r}, expected a name, as in 'think'")
    if f"</{tag}>" in answer:
        return answer.rpartition(f"</{tag}>")[2].lstrip()
    # A block that never ends was cut: there is no answer behind it.
    return "" if answer.lstrip().startswith(f"<{tag}>") else answer


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
