"""One-line tasks over bytes: three skills, and items that need two of them.

sum        "4+9="                 -> "3"       the sum modulo 10
reversal   "rev fbca="            -> "acbf"
lookup     "a=3,b=2,c=7,d=0;c="   -> "7"
composed   "a=3,b=2,c=7,d=0;a+b=" -> "5"       two values looked up, then added

Tables list their keys in one order. In an order of its own for each table, the key has to be found
by its content, which a model of 4 layers and width 64 had not learned after 2,500 steps of 64 items
(0.52 right on three keys, where guessing among the values is right in a third).
"""

from __future__ import annotations

import numpy as np

from wye.checks.base import CheckError

SKILLS = ("sum", "reversal", "lookup")
COMPOSED = "composed"
_LETTERS = "abcdef"
_KEYS = "abcd"


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
    if name == "reversal":
        letters = "".join(generator.permutation(list(_LETTERS)))
        return f"rev {letters[:4]}=", letters[3::-1]
    values = generator.integers(10, size=len(_KEYS))
    table = ",".join(f"{k}={v}" for k, v in zip(_KEYS, values, strict=True))
    i, j = generator.choice(len(_KEYS), size=2, replace=False)
    if name == "lookup":
        return f"{table};{_KEYS[i]}=", f"{values[i]}"
    return f"{table};{_KEYS[i]}+{_KEYS[j]}=", f"{(values[i] + values[j]) % 10}"
