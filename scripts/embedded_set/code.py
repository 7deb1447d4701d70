"""What a tiny Python program prints; the answer is what it really prints."""

from __future__ import annotations

import subprocess
import sys

from embedded_set.question import Question, Rng
from embedded_set.texts import WORDS


def code_output(rng: Rng) -> Question:
    """The output of one or two lines that this function made."""
    a, b, word = rng.randint(2, 12), rng.randint(2, 9), rng.choice(WORDS)
    numbers = [rng.randint(1, 20) for _ in range(3)]
    source, numeric = rng.choice(
        (
            (f"print({a} + {b})", True),
            (f"x = {a}; print(x * {b})", True),
            (f'print(len("{word}"))', True),
            (f"print(max({numbers}))", True),
            (f"print(sum({numbers}))", True),
            (f'print("{word}".upper())', False),
            (f'print("{word}"[0])', False),
            (f"print({a} > {b})", False),
            (f"print({numbers}[{rng.randrange(3)}])", True),
            (f'print("{word[:2]}" * {rng.randint(2, 3)})', False),
        )
    )
    text = rng.choice(
        (
            f"What does this Python code print? {source}",
            f"Output of this Python program: {source}",
            f"What is printed by {source} in Python?",
        )
    )
    printed = subprocess.run(
        [sys.executable, "-I", "-c", source], capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()
    return Question(text=text, answer=printed, grader="number" if numeric else "exact")
