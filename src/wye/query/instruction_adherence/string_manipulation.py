"""Probes of string manipulation: reverse, take letters, replace letters, three steps in a row."""

from __future__ import annotations

import numpy as np

from wye.query.instruction_adherence.probe import Probe, equals
from wye.query.instruction_adherence.words import NOUNS, some

CATEGORY = "string_manipulation"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def reverse(draw: np.random.Generator) -> Probe:
    """A random string, backwards."""
    text = "".join(draw.choice(list(_LETTERS), 10))
    prompt = f"Reverse this string. Reply with the reversed string only: {text}"
    return _probe("reverse", prompt, text[::-1])


def every_kth(draw: np.random.Generator) -> Probe:
    """Every k-th letter of a sentence."""
    words, k = " ".join(some(draw, NOUNS, 4)), int(draw.integers(2, 5))
    letters = words.replace(" ", "")
    prompt = (
        f"Ignore the spaces and take every {_ordinal(k)} letter of this text, that is letters "
        f"number {k}, {2 * k}, {3 * k} and so on. Reply with these letters only, joined without "
        f"spaces: {words}"
    )
    return _probe("every_kth", prompt, letters[k - 1 :: k])


def replace_letters(draw: np.random.Generator) -> Probe:
    """Letters replaced by a given map."""
    text = " ".join(some(draw, NOUNS, 3))
    present = sorted(set(text) - {" "})
    chosen = [present[i] for i in draw.permutation(len(present))[:3]]
    signs = dict(zip(chosen, "#@%", strict=True))
    rules = ", ".join(f"{letter} by {sign}" for letter, sign in signs.items())
    prompt = f"Replace letters in this text: {rules}. Reply with the new text only: {text}"
    return _probe("replace_letters", prompt, "".join(signs.get(c, c) for c in text))


def three_operations(draw: np.random.Generator) -> Probe:
    """Without vowels, in capitals, backwards: the complex transformation."""
    text = " ".join(some(draw, NOUNS, 2))
    kept = "".join(c for c in text if c not in "aeiou")
    prompt = (
        "Apply three steps to this text, in this order: remove the vowels (a, e, i, o, u), "
        "change to upper case, reverse the whole string (the space stays a space). Reply with the "
        f"result only: {text}"
    )
    return _probe("three_operations", prompt, kept.upper()[::-1])


def _probe(name: str, prompt: str, answer: str) -> Probe:
    return Probe(name, CATEGORY, prompt, answer, equals(answer))


def _ordinal(k: int) -> str:
    return {2: "2nd", 3: "3rd", 4: "4th"}[k]
