"""Questions of reasoning-gym with a short derivation each, for solvers that answer in two ways.

    sum       75 + 24 - 63      75+24=99;99-63=36
    letters   r in color        in0;color1
    legs      6 flatworms, 9 tigers    6*0=0;9*4=36
    gcd       48 18             48%18=12;18%12=6;12%6=0

The answer follows the derivation behind `>`, so that one grader serves both ways.
"""

from __future__ import annotations

import re

from wye.checks.base import CheckError
from wye.checks.query.tasks import Item

FAMILIES = ("sum", "letters", "legs", "gcd")
MARK = ">"


def derivation(item: Item) -> str:
    """The steps from the question to its answer.

    Raises:
        CheckError: the family has no derivation here.
    """
    steps = {"sum": _sum, "letters": _letters, "legs": _legs, "gcd": _gcd}
    if item.task not in steps:
        raise CheckError(f"no derivation for the family {item.family!r}; there are {list(steps)}")
    return steps[item.task](item)


def answer_of(text: str) -> str:
    """What stands behind the last `>` of a reply; all of it where there is none."""
    return text.rsplit(MARK, 1)[-1].strip()


def _sum(item: Item) -> str:
    first, *rest = re.findall(r"[+-]?\s*\d+", item.bare)
    total, steps = int(first.replace(" ", "")), []
    for term in rest:
        term = term.replace(" ", "")
        steps.append(f"{total}{term}={total + int(term)}")
        total += int(term)
    return ";".join(steps)


def _letters(item: Item) -> str:
    letter, words = item.entry["metadata"]["target_letter"], item.entry["metadata"]["span"]
    # The grader counts both cases, as the question does not tell them apart.
    return ";".join(f"{word}{word.lower().count(letter.lower())}" for word in words)


def _legs(item: Item) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    kinds = item.entry["metadata"]["animals"]
    return ";".join(f"{n}*{ANIMALS[kind]}={n * ANIMALS[kind]}" for kind, n in kinds.items())


def _gcd(item: Item) -> str:
    a, b = (int(n) for n in item.bare.split())
    steps = []
    while b:
        steps.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    return ";".join(steps)
