"""A question of the embedded set, and when an answer to it is right."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

Grader = Callable[[str, "Question"], bool]
Rng = random.Random


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        text: as a person would type it.
        answer: the canonical short answer.
        grader: a name in `GRADERS`.
        accepted: other spellings that are as right.
        rivals: other values of the same kind; an answer that names one is wrong.
    """

    text: str
    answer: str
    grader: str
    accepted: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def grade(text: str, question: Question) -> bool:
    """Whether `text` answers `question` rightly."""
    return GRADERS[question.grader](text, question)


def words_of(text: str) -> str:
    """No case, no accents, no punctuation, single spaces: for comparing names."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^a-z0-9]+", " ", plain).split())


def _names(text: str, question: Question) -> bool:
    """Names an accepted value as whole words, and no rival that the question does not name."""
    said, asked = f" {words_of(text)} ", f" {words_of(question.text)} "
    right = [words_of(a) for a in (question.answer, *question.accepted)]
    if not any(f" {a} " in said for a in right):
        return False
    return not any(
        f" {rival} " in _without(said, rival, right) and f" {rival} " not in asked
        for rival in map(words_of, question.rivals)
    )


def _without(said: str, rival: str, right: list[str]) -> str:
    """What is said, less the right values in which the rival's name occurs as a part."""
    for a in right:
        if f" {rival} " in f" {a} ":
            said = said.replace(f" {a} ", "  ")
    return said


def _code(text: str, question: Question) -> bool:
    """Names a code (a symbol, ISO code) letter by letter, and no other in the same form."""
    found = re.findall(rf"(?<![A-Za-z])[A-Za-z]{{{len(question.answer)}}}(?![A-Za-z])", text)
    if text.strip(" .'\"`*\n") == question.answer:
        return True
    upper = [f for f in found if f[0].isupper() and (f == question.answer or f in question.rivals)]
    return bool(upper) and set(upper) == {question.answer}


def _number(text: str, question: Question) -> bool:
    """The last number of the text is the answer's."""
    found = re.findall(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\d)", text.replace("$", " "))
    if not found:
        return False
    return abs(float(found[-1].replace(",", "")) - float(question.answer)) < 1e-6


def _yes_no(text: str, question: Question) -> bool:
    """The first verdict in the text is the answer's."""
    found = re.search(r"\b(yes|no|true|false)\b", text, re.IGNORECASE)
    if found is None:
        return False
    return {"true": "yes", "false": "no"}.get(found[1].lower(), found[1].lower()) == question.answer


def _letter(text: str, question: Question) -> bool:
    """The letter that the answer ends in, or that it quotes last."""
    bare = text.strip(" .'\"`*\n")
    if len(bare) == 1:
        return bare.casefold() == question.answer.casefold()
    quoted = re.findall(r"[\"'`*“‘]([A-Za-z])[\"'`*”’]", text)
    last = quoted[-1:] or re.findall(r"\b(?:is|:)\s+([A-Za-z])\s*(?:[.,;!?]|$)", text)[-1:]
    return bool(last) and last[0].casefold() == question.answer.casefold()


def _exact(text: str, question: Question) -> bool:
    """The answer stands in the text as it is, case included, on its own, and the question not."""
    pattern = r"(?<![\w@])" + re.escape(question.answer) + r"(?![\w@])"
    return re.search(pattern, text) is not None and len(text) <= 4 * len(question.answer) + 80


def _whole(text: str, question: Question) -> bool:
    """The text is the answer alone, but for quotes, a lead-in and a full stop."""
    bare = text.strip().splitlines()[-1] if text.strip() else ""
    forms = {bare, bare.rsplit(": ", 1)[-1], bare.rsplit(" is ", 1)[-1]}
    return any(f.strip(" .'\"`*") == question.answer.strip(" .'\"`*") for f in forms)


GRADERS: dict[str, Grader] = {
    "names": _names,
    "code": _code,
    "number": _number,
    "yes_no": _yes_no,
    "letter": _letter,
    "exact": _exact,
    "whole": _whole,
}
