"""Yes/no logic from reasoning-gym's families (Apache-2.0), in the words a person would use."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

import reasoning_gym

from embedded_set.question import Question, Rng


def isomorphic(rng: Rng) -> Question:
    """Whether two short strings have the same pattern of letters."""
    found = _draw("isomorphic_strings", rng, min_string_length=2, max_string_length=4)
    first, second = found["words"]
    text = rng.choice(
        (
            f"Are the strings {first} and {second} isomorphic?",
            f'Is "{first}" isomorphic to "{second}" (same pattern of letters)?',
            f"Do {first} and {second} have the same letter pattern? yes or no",
        )
    )
    return _verdict(text, found["solution"])


def ransom_note(rng: Rng) -> Question:
    """Whether a word can be cut from the letters of another."""
    found = _draw(
        "ransom_note",
        rng,
        min_note_length=2,
        max_note_length=4,
        min_magazine_length=4,
        max_magazine_length=8,
    )
    note, letters = found["ransom_note"], found["magazine"]
    text = rng.choice(
        (
            f"Can I spell {note} using only the letters in {letters}?",
            f"Can the letters of {letters} make {note}?",
            f'Is it possible to write "{note}" with letters cut from "{letters}"? yes or no',
        )
    )
    return _verdict(text, found["solution"])


def courses(rng: Rng) -> Question:
    """Whether courses with prerequisites can all be taken."""
    found = _draw(
        "course_schedule",
        rng,
        min_num_courses=3,
        max_num_courses=3,
        min_num_prerequisites=1,
        max_num_prerequisites=1,
        min_cycle_length=3,
        max_cycle_length=3,
    )
    names = rng.sample(("math", "art", "music", "physics", "history", "biology", "French"), 3)
    needs = "; ".join(f"{names[b]} must come before {names[a]}" for a, b in found["prerequisites"])
    text = rng.choice(
        (
            f"Can I take all my courses if {needs}?",
            f"Course rules: {needs}. Is it possible to finish all of them?",
        )
    )
    return _verdict(text, found["solution"])


def syllogism(rng: Rng) -> Question:
    """Whether a conclusion follows from two premises."""
    found = _draw("syllogism", rng)
    first, second, conclusion = (
        found[k].rstrip(".") for k in ("premise1", "premise2", "conclusion")
    )
    text = rng.choice(
        (
            f"{first}. {second}. Does it follow that {_lower(conclusion)}?",
            f"If {_lower(first)} and {_lower(second)}, is it certain that {_lower(conclusion)}?",
        )
    )
    return _verdict(text, found["is_valid"])


class _Alphabet(tuple[str, ...]):
    """The letters in order, in place of a set whose order differs from process to process."""

    __slots__ = ()

    def __sub__(self, other: Iterable[str]) -> _Alphabet:
        return _Alphabet(letter for letter in self if letter not in other)


def _draw(family: str, rng: Rng, **config: int) -> dict[str, Any]:
    seed = rng.randrange(2**31)
    dataset: Any = reasoning_gym.create_dataset(family, size=1, seed=seed, **config)
    if hasattr(dataset, "letters"):
        dataset.letters = _Alphabet(string.ascii_lowercase)
    return dict(dataset[0]["metadata"])


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _verdict(text: str, holds: bool) -> Question:
    return Question(text=text, answer="yes" if holds else "no", grader="yes_no")
