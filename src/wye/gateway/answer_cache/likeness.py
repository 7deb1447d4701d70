"""When two asks count as one: nearly equal vectors, and no difference that vectors do not see.

A mean of token vectors knows no order and hardly a negation: "Why do Poles dislike Russians?" and
its reverse have one vector. Nor does it change much where one word of sixty does: "by Monday" or
"by Friday", "a + b" or "a - b". So beside the cosine, these must be equal: numbers, negations,
words of direction, degree and possession, symbols, and the order of all words that both asks have;
and no word may stand in the place of another, except a form of it.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import takewhile

# Marks of a sentence are none, nor is a hyphen within a word.
_SYMBOL = re.compile(
    r"(?<![^\W\d_])-|-(?![^\W\d_])|[^\w\s.,;:!?'\"()\u2018\u2019\u201c\u201d\u2026-]"
)
_ENDINGS = {"", "s", "es", "d", "ed", "ing", "y", "ies"}
_WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
_NUMBERS = {
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "dozen", "half", "double", "twice", "hundred", "thousand", "million",
    "billion", "first", "second", "third", "last", "next",
}  # fmt: skip
_NEGATIONS = {
    "not", "no", "never", "none", "nor", "neither", "without", "cannot", "except", "unless",
}  # fmt: skip
_DIRECTIONS = {
    "for", "against", "from", "to", "into", "in", "on", "before", "after", "over", "under",
    "above", "below", "with", "between", "versus", "vs", "only", "this", "that", "more", "less",
    "most", "least", "best", "worst", "and", "or",
}  # fmt: skip
_POSSESSION = {"my", "your", "our", "his", "her", "its", "their"}
_EXACT = _NUMBERS | _NEGATIONS | _DIRECTIONS | _POSSESSION
_LIGHT = {
    "a", "an", "the", "is", "are", "was", "were", "be", "been", "am", "do", "does", "did", "can",
    "could", "will", "would", "shall", "should", "may", "might", "i", "you", "we", "they", "he",
    "she", "it", "of", "at", "by", "as", "so", "what", "which", "who", "when", "where", "why",
    "how", "please", "there", "have", "has",
}  # fmt: skip


def agree(one: str, other: str) -> bool:
    """Whether nothing tells two nearly equal asks apart that their vectors do not see.

    >>> agree("How do I cook an egg?", "How can I cook an egg?")
    True
    >>> agree("Is a dog bigger than a cat?", "Is a cat bigger than a dog?")
    False
    """
    here, there = _words(one), _words(other)
    if Counter(filter(_exact, here)) != Counter(filter(_exact, there)):
        return False
    if _SYMBOL.findall(one) != _SYMBOL.findall(other):
        return False
    of_one, of_other = set(here) - _LIGHT, set(there) - _LIGHT
    both, only_one, only_other = of_one & of_other, of_one - of_other, of_other - of_one
    if _without_form(only_one, only_other) and _without_form(only_other, only_one):
        return False
    return [w for w in here if w in both] == [w for w in there if w in both]


def _words(text: str) -> list[str]:
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.lower())]


def _without_form(words: set[str], others: set[str]) -> bool:
    """Whether some word is no form of any other."""
    return any(not any(_same_stem(word, other) for other in others) for word in words)


def _same_stem(one: str, other: str) -> bool:
    # The stem is as long as both begin alike.
    alike = (a == b for a, b in zip(one, other, strict=False))
    stem = sum(takewhile(bool, alike))
    return stem >= 3 and one[stem:] in _ENDINGS and other[stem:] in _ENDINGS


def _exact(word: str) -> bool:
    return word in _EXACT or word.endswith("n't") or any(c.isdigit() for c in word)
