"""Which skills a request needs, by the words in it.

A rule for each category: what such instructions say. It reads the request alone, costs
microseconds, and finds nothing in a plain question; a caller who knows better declares the needs.
Ours: the paper routes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from wye.query.base import BoolArray, RouterError
from wye.query.instruction_adherence.probe import CATEGORIES

_NUMBER = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|twelve)"
_RULES: dict[str, str] = {
    "string_manipulation": (
        r"\breverse(?:d)?\b.{0,30}\b(?:string|text|word|letters|sentence)|\bspell\b.{0,30}backward"
        r"|\b(?:string|word|text|letters)\b.{0,20}\bbackwards?\b"
        r"|\bevery\s+(?:\d+(?:st|nd|rd|th)|second|third|fourth|other)\s+(?:letter|character)"
        r"|\b(?:replace|remove|delete|drop)\b.{0,25}\b(?:letters?|characters?|vowels?|consonants?)\b"
        r"|\b(?:upper|lower)[ -]?case\b|\bcapital(?:ise|ize) (?:all|every|each)\b"
    ),
    "mathematical_operations": (
        r"\b(?:calculate|compute|evaluate|multiply|subtract|divide)\b"
        r"|\badd (?:these|the|up|all)\b|\bsum of\b|\b(?:median|average|mean) (?:of|is)\b"
        r"|\bgive their median\b|\bhow many numbers\b"
        r"|\d\s*[-+*/×÷^]\s*\d.{0,20}(?:=|\?)|\bwhat is \d+\s*[-+*/×÷]"
    ),
    "data_processing": (
        r"\b(?:extract|take|pull)\b.{0,60}\b(?:fields?|values?|record|columns?|rows?)\b"
        r"|\bfrom the (?:record|table|list|data|log) below\b"
        r"|\b(?:filter|group)\b.{0,40}\b(?:rows?|records?|entries|by)\b"
        r"|\bin (?:this|the following|the) table\b|\bsort (?:these|the|this)\b.{0,30}\b"
        r"(?:words?|list|rows?|names|records?|lines)\b"
        r"|\bcount how many\b.{0,40}\b(?:each|per|every)\b"
    ),
    "format_conversion": (
        r"\b(?:json|yaml|xml|csv|markdown table|pipe table|iso(?: 8601)? (?:format|date))\b"
        r"|\byyyy-mm-dd\b|\b(?:numbered|bulleted|bullet) list\b|\bas a (?:markdown )?table\b"
        r"|\bconvert\b.{0,40}\b(?:to|into)\b.{0,25}\b(?:format|table|list|markdown|html|latex)\b"
    ),
    "constraint_compliance": (
        rf"\bexactly {_NUMBER} (?:words?|sentences?|characters?|syllables?|paragraphs?)\b"
        rf"|\b(?:at most|no more than|fewer than|under|at least) {_NUMBER} "
        r"(?:words?|sentences?|characters?)\b"
        r"|\bexactly this (?:sentence|text|line)\b|\bnothing else\b"
        r"|\b(?:without|avoid(?:ing)?|not contain|do(?:es)? not (?:use|contain)|never us(?:e|ing))"
        r"\b.{0,20}\b(?:letter|words?)\b"
        r"|\b(?:begin|start|end)s? with the (?:word|letter)\b|\bwhose (?:first|last) word\b"
    ),
}
_PATTERNS = {name: re.compile(rule, re.IGNORECASE) for name, rule in _RULES.items()}
# Instructions stand at the beginning or at the end; a document between them is not read.
_READ = 2000


def skills_of(text: str) -> tuple[str, ...]:
    """The categories that a request needs, in the order of `CATEGORIES`; none for most.

    Example:
        >>> skills_of("Convert this CSV to JSON."), skills_of("Who wrote Faust?")
        (('format_conversion',), ())
    """
    read = text if len(text) <= 2 * _READ else f"{text[:_READ]}\n{text[-_READ:]}"
    return tuple(name for name, pattern in _PATTERNS.items() if pattern.search(read))


def required(
    texts: Sequence[str], needs: Sequence[Iterable[str] | None] | None = None
) -> BoolArray:
    """`[Q, K]` which of the K categories each request needs.

    Args:
        texts: Q requests.
        needs: what callers declared for each (`declared_needs` reads it from metadata), None where
            the rule shall read the text.

    Raises:
        RouterError: lengths differ, or a declared skill is none of `CATEGORIES`.
    """
    if needs is not None and len(needs) != len(texts):
        raise RouterError(f"{len(texts)} texts came with {len(needs)} declared needs")
    wanted = np.zeros((len(texts), len(CATEGORIES)), np.bool_)
    for q, text in enumerate(texts):
        declared = None if needs is None else needs[q]
        found = skills_of(text) if declared is None else tuple(declared)
        if unknown := [s for s in found if s not in CATEGORIES]:
            raise RouterError(f"needs[{q}] has {unknown}, expected some of {list(CATEGORIES)}")
        wanted[q, [CATEGORIES.index(s) for s in found]] = True
    return wanted


def declared_needs(metadata: Mapping[str, object]) -> tuple[str, ...] | None:
    """The entry `needs` of a request's metadata; None where there is none.

    Raises:
        RouterError: it is no list of strings.
    """
    if "needs" not in metadata:
        return None
    given = metadata["needs"]
    if not isinstance(given, list | tuple) or not all(isinstance(n, str) for n in given):
        raise RouterError(f"metadata needs is {given!r}, expected a list of skills")
    return tuple(given)
