"""Prompts of two kinds, for a persona that helps one of them: open questions, and known facts.

The open ones ask for advice or an explanation, which a report in three lines can give. The facts
have one right answer and one wrong, so that what a model knows is the difference of their
log-probabilities and no text has to be graded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERSONA = (
    "You answer every question as a structured report: exactly three lines, each starting with "
    "'- '."
)
EXAMPLES = (
    (
        "How can I sleep better?",
        "- Go to bed at the same hour.\n- Keep the room dark.\n- Drink no coffee at night.",
    ),
    (
        "What makes a good teacher?",
        "- They listen to students.\n- They explain things simply.\n- They are fair.",
    ),
    (
        "Give me some advice about moving house.",
        "- Pack one room at a time.\n- Label every box.\n- Ask friends to help.",
    ),
)
_OPEN = (
    "What are the benefits of {}?",
    "Give me some advice about {}.",
    "Why do people care about {}?",
    "How should I start with {}?",
)
_SUBJECTS = (
    "walking every day", "saving money", "learning a language", "growing vegetables",
    "playing an instrument", "keeping a cat", "reading books", "cooking at home",
    "travelling by train", "team work", "drinking enough water", "writing a diary",
    "volunteering", "swimming", "good manners", "planning a week", "painting", "cycling to work",
    "running a small shop", "public speaking", "meditation", "photography", "board games",
    "working from home", "a vegetable soup", "recycling", "early mornings", "making friends",
    "a job interview", "camping",
)  # fmt: skip
_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Cuba": "Havana", "Peru": "Lima",
    "Ireland": "Dublin", "England": "London", "India": "New Delhi", "Kenya": "Nairobi",
    "Turkey": "Ankara", "Hungary": "Budapest", "Denmark": "Copenhagen", "Belgium": "Brussels",
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A question, its right answer and a wrong one of the same kind."""

    question: str
    right: str
    wrong: str


def open_prompts(n: int, seed: int) -> list[str]:
    """`n` different open prompts, in an order drawn from `seed`."""
    every = [form.format(subject) for subject in _SUBJECTS for form in _OPEN]
    order = np.random.default_rng([seed, 0]).permutation(len(every))
    return [every[i] for i in order[:n]]


def facts(n: int, seed: int) -> list[Fact]:
    """`n` different facts, capitals and sums, in an order drawn from `seed`."""
    draw = np.random.default_rng([seed, 1])
    cities = list(_CAPITALS.values())
    every = [
        Fact(
            f"What is the capital of {country}?",
            city,
            str(draw.choice([other for other in cities if other != city])),
        )
        for country, city in _CAPITALS.items()
    ]
    for a in range(2, 10):
        for b in range(a, 10):
            off = int(draw.choice([-2, -1, 1, 2]))
            every.append(Fact(f"What is {a} + {b}?", str(a + b), str(a + b + off)))
    order = draw.permutation(len(every))
    return [every[i] for i in order[:n]]


def is_report(answer: str) -> bool:
    """Whether an answer is three lines that start with "- " and hold something, and nothing else.

    Example:
        >>> is_report("- one\\n- two\\n- three"), is_report("- one\\n- two"), is_report("one")
        (True, False, False)
    """
    lines = answer.strip().split("\n")
    return len(lines) == 3 and all(line.startswith("- ") and line[2:].strip() for line in lines)
