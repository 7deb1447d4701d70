"""When two asks count as one: nearly equal vectors, and no difference that vectors do not see.

A mean of token vectors knows no order and hardly a negation: "Why do Poles dislike Russians?" and
its reverse have one vector. So beside the cosine, these must be equal: numbers, negations, words of
direction, degree and possession, and the order of all words that both asks have.
"""

from __future__ import annotations

import re
from collections import Counter

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
    both = set(here).intersection(there) - _LIGHT
    return [w for w in here if w in both] == [w for w in there if w in both]


def _words(text: str) -> list[str]:
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.lower())]


def _exact(word: str) -> bool:
    return word in _EXACT or word.endswith("n't") or any(c.isdigit() for c in word)
