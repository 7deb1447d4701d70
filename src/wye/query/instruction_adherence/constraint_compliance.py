"""Probes of constraint compliance: exact output, exact length, a forbidden letter, two ends."""

from __future__ import annotations

import re

import numpy as np

from wye.query.instruction_adherence.probe import Complaint, Probe, equals
from wye.query.instruction_adherence.words import NAMES, NOUNS, some

CATEGORY = "constraint_compliance"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# A sentence, so that the instruction is not met by a word or two.
_LEAST_WORDS = 5


def exact_sentence(draw: np.random.Generator) -> Probe:
    """A given sentence and nothing else."""
    name, (one, other) = some(draw, NAMES, 1)[0], some(draw, NOUNS, 2)
    sentence = f"{name} put the {one} beside the {other}."
    prompt = f"Reply with exactly this sentence and nothing else: {sentence}"
    return Probe("exact_sentence", CATEGORY, prompt, sentence, equals(sentence))


def exact_words(draw: np.random.Generator) -> Probe:
    """A sentence of exactly n words."""
    n, noun = int(draw.integers(5, 10)), some(draw, NOUNS, 1)[0]
    prompt = (
        f"Write one sentence about this word: {noun}. Use exactly {n} words. Words are what spaces "
        "separate; a word with a hyphen or an apostrophe is one word, and so is a number. Reply "
        "with the sentence only."
    )
    filler = ["The", noun, *["very"] * (n - 4), "looked", "good."]
    return Probe("exact_words", CATEGORY, prompt, " ".join(filler), _has_words(n, noun))


def avoid_letter(draw: np.random.Generator) -> Probe:
    """A sentence without a given letter."""
    letter = str(draw.choice(list("eaot")))
    noun = str(draw.choice([w for w in NOUNS if letter not in w]))
    prompt = (
        f"Write one sentence of at least {_LEAST_WORDS} words that contains the word {noun} and "
        f"does not contain the letter {letter} anywhere. Reply with the sentence only."
    )
    fillers = {"e": "a", "a": "the", "o": "the", "t": "a"}
    reference = " ".join([noun, *[fillers[letter], noun] * 2])

    def complaint(answer: str) -> str | None:
        if letter in answer.lower():
            return f"it contains the letter {letter}"
        return _is_sentence(answer, noun)

    return Probe("avoid_letter", CATEGORY, prompt, reference, complaint)


def begin_and_end(draw: np.random.Generator) -> Probe:
    """A sentence with a given first and last word."""
    first, last = some(draw, NOUNS, 2)
    first = first.capitalize()
    prompt = (
        f"Write one sentence of at least {_LEAST_WORDS} words whose first word is {first} and "
        f"whose last word is {last}. Reply with the sentence only."
    )

    def complaint(answer: str) -> str | None:
        words = _WORD.findall(answer)
        if "\n" in answer.strip() or len(words) < _LEAST_WORDS:
            return f"expected one line of at least {_LEAST_WORDS} words"
        if words[0] != first or not answer.startswith(first):
            return f"it does not begin with {first}"
        if words[-1] != last:
            return f"it does not end with {last}"
        return None

    reference = f"{first} trees grow beside the {last}."
    return Probe("begin_and_end", CATEGORY, prompt, reference, complaint)


def _has_words(n: int, noun: str) -> Complaint:
    def complaint(answer: str) -> str | None:
        words = answer.split()
        if len(words) != n:
            return f"{len(words)} words, expected {n}"
        if "\n" in answer.strip():
            return "expected one line"
        return None if noun in answer.lower() else f"it is not about {noun}"

    return complaint


def _is_sentence(answer: str, noun: str) -> str | None:
    words = [w.lower() for w in _WORD.findall(answer)]
    if "\n" in answer.strip() or len(words) < _LEAST_WORDS:
        return f"expected one line of at least {_LEAST_WORDS} words"
    return None if noun in words else f"it does not contain the word {noun}"
