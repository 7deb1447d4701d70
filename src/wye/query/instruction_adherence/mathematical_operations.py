"""Probes of mathematical operations: a sum, a formula, a median, a count."""

from __future__ import annotations

import numpy as np

from wye.query.instruction_adherence.probe import Probe, equals
from wye.query.instruction_adherence.words import integers

CATEGORY = "mathematical_operations"


def add(draw: np.random.Generator) -> Probe:
    """A sum of four integers, digits only."""
    numbers = integers(draw, 11, 99, 4)
    prompt = f"Add these numbers. Reply with digits only: {_listed(numbers)}"
    return _probe("add", prompt, sum(numbers))


def two_steps(draw: np.random.Generator) -> Probe:
    """A stated formula in two steps."""
    a, b, c = integers(draw, 3, 20, 3)
    prompt = (
        f"Multiply {a} by {b}, then subtract {c} from the product. Reply with the resulting number "
        "only, in digits."
    )
    return _probe("two_steps", prompt, a * b - c)


def median(draw: np.random.Generator) -> Probe:
    """The median of six numbers, a whole one."""
    # Even numbers: the mean of the middle pair is whole.
    numbers = [2 * n for n in integers(draw, 1, 49, 6)]
    low, high = sorted(numbers)[2:4]
    prompt = (
        "Sort these six numbers and give their median, which is the mean of the third and the "
        f"fourth. Reply with the number only, in digits: {_listed(numbers)}"
    )
    return _probe("median", prompt, (low + high) // 2)


def count_larger(draw: np.random.Generator) -> Probe:
    """How many items of a list are larger than a bound."""
    numbers, bound = integers(draw, 1, 99, 9), int(draw.integers(30, 70))
    prompt = (
        f"How many numbers in this list are greater than {bound}? Reply with the count only, in "
        f"digits: {_listed(numbers)}"
    )
    return _probe("count_larger", prompt, sum(n > bound for n in numbers))


def _probe(name: str, prompt: str, answer: int) -> Probe:
    return Probe(name, CATEGORY, prompt, str(answer), equals(str(answer)))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
