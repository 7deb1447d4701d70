"""One-line tasks over bytes: three skills, and items that need two of them.

sum        "4+9="                 -> "3"       the sum modulo 10
reversal   "rev fbca="            -> "acbf"
lookup     "a=3,c=7,b=2;c="       -> "7"
composed   "a=3,c=7,b=2;a+b="     -> "5"       two values looked up, then added
"""

from __future__ import annotations

import numpy as np

from wye.checks.base import CheckError

SKILLS = ("sum", "reversal", "lookup")
COMPOSED = "composed"
_LETTERS = "abcdef"


def task_items(name: str, n: int, seed: int) -> list[tuple[str, str]]:
    """`n` pairs of prompt and answer.

    Args:
        name: one of `SKILLS`, or `COMPOSED`.
        n: how many.
        seed: of the draws.

    Raises:
        CheckError: an unknown name.

    Example:
        >>> prompt, answer = task_items("sum", 1, seed=0)[0]
        >>> int(answer) == (int(prompt[0]) + int(prompt[2])) % 10
        True
    """
    if name not in (*SKILLS, COMPOSED):
        raise CheckError(f"no task is called {name!r}; there are {[*SKILLS, COMPOSED]}")
    generator = np.random.default_rng([seed, (*SKILLS, COMPOSED).index(name)])
    return [_item(name, generator) for _ in range(n)]


def _item(name: str, generator: np.random.Generator) -> tuple[str, str]:
    if name == "sum":
        a, b = generator.integers(10, size=2)
        return f"{a}+{b}=", f"{(a + b) % 10}"
    letters = "".join(generator.permutation(list(_LETTERS)))
    if name == "reversal":
        return f"rev {letters[:4]}=", letters[3::-1]
    values = generator.integers(10, size=3)
    table = ",".join(f"{k}={v}" for k, v in zip(letters, values, strict=False))
    i, j = generator.choice(3, size=2, replace=False)
    if name == "lookup":
        return f"{table};{letters[i]}=", f"{values[i]}"
    return f"{table};{letters[i]}+{letters[j]}=", f"{(values[i] + values[j]) % 10}"
