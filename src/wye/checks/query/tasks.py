"""Questions with exact graders: eight families of reasoning-gym, each easy and hard.

    sum       add and subtract          easy 2 numbers below 100, hard 3
    backward  spell a word backward     easy 3 to 4 letters, hard 6 to 8
    gcd       greatest common divisor   easy up to 30, hard up to 300
    letters   count a letter in a text  easy 1 to 2 words, hard 4 to 6
    product   multiply below 100        easy 1 or 2 digits, hard 2
    bases     number in another base    easy 3 to 6 and below 100, hard 3 to 15 and up to 500
    fraction  lowest terms              easy up to 30 times 2 to 12, hard up to 90 times 2 to 30
    legs      count legs of animals     easy 1 kind, hard 2 to 3 kinds

A family name is `sum` (both levels, half each), `sum-easy` or `sum-hard`. Whether a question is for
training solvers (`practice`) or for everything after that (`held out`: training and testing of
routers, thresholds, scores) follows from its text alone, by a hash: a solver never meets a question
that it is asked later, whatever seeds are used.

Needs the package reasoning-gym (extra `tasks`).

Example:
    >>> items = draw(["sum", "gcd-easy"], 4, seed=1)
    >>> [grade(item, item.answer) for item in items]
    [1.0, 1.0, 1.0, 1.0]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from wye.checks.base import CheckError
from wye.data.questions import split_by_question

Part = Literal["practice", "held out"]
LEVELS = ("easy", "hard")
HELD_OUT = 0.4
_ROUNDS = 200


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        family: for instance `sum-easy`.
        question: in the words of reasoning-gym, as a router reads it.
        bare: what varies between questions of the family, without a word of what is asked.
        answer: the right one.
        entry: as reasoning-gym made it.
    """

    family: str
    question: str
    bare: str
    answer: str
    entry: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def task(self) -> str:
        """The family without its level."""
        return self.family.rsplit("-", 1)[0]

    @property
    def prompt(self) -> str:
        """What a byte-level solver reads: a letter for the task and `bare`, in few bytes."""
        return f"{_TASKS[self.task].tag}{self.bare}="


@dataclass(frozen=True)
class _Task:
    tag: str
    dataset: str
    pattern: str
    easy: Mapping[str, Any]
    hard: Mapping[str, Any]
    shown: Callable[[tuple[str, ...]], str] = "".join


_TASKS: dict[str, _Task] = {
    "sum": _Task(
        "s",
        "chain_sum",
        r": (.+) =$",
        {"min_terms": 2, "max_terms": 2, "max_digits": 2},
        {"min_terms": 3, "max_terms": 3, "max_digits": 2},
    ),
    "backward": _Task(
        "r",
        "spell_backward",
        r"\): (\w+)$",
        {"min_word_len": 3, "max_word_len": 4},
        {"min_word_len": 6, "max_word_len": 8},
    ),
    "gcd": _Task(
        "g", "gcd", r"numbers: (\d+), (\d+)\.", {"max_value": 30}, {"max_value": 300}, " ".join
    ),
    "letters": _Task(
        "c",
        "letter_counting",
        r'letter "(\w)" appear in the text: "(.*)"',
        {"min_words": 1, "max_words": 2},
        {"min_words": 4, "max_words": 6},
        " ".join,
    ),
    "product": _Task(
        "p",
        "products",
        r"multiplication: (\d+) \* (\d+)\.",
        {"min_digits": 1, "max_digits": 2},
        {"min_digits": 2, "max_digits": 2},
        "*".join,
    ),
    "bases": _Task(
        "b",
        "base_conversion",
        r"convert the base-(\d+) number (\w+) to base-(\d+)",
        {"min_base": 3, "max_base": 6, "min_value": 1, "max_value": 99},
        {"min_base": 3, "max_base": 15, "min_value": 1, "max_value": 500},
        " ".join,
    ),
    "fraction": _Task(
        "f",
        "fraction_simplification",
        r"fraction (\d+)/(\d+) to",
        {"max_value": 30, "min_factor": 2, "max_factor": 12, "styles": ("plain",)},
        {"max_value": 90, "min_factor": 2, "max_factor": 30, "styles": ("plain",)},
        "/".join,
    ),
    "legs": _Task(
        "l",
        "leg_counting",
        r"if you have (.+)\?",
        {"min_animals": 1, "max_animals": 1, "max_instances": 30},
        {"min_animals": 2, "max_animals": 3, "max_instances": 9},
    ),
}
TASKS = tuple(_TASKS)


def draw(
    families: Sequence[str] | Mapping[str, float],
    n: int,
    *,
    seed: int,
    part: Part = "held out",
    distinct: bool = True,
) -> list[Item]:
    """`n` questions in random order.

    Args:
        families: names, in equal shares; or shares by name.
        n: how many.
        seed: of the draw.
        part: `practice` for training solvers, `held out` for all else.
        distinct: no question twice.

    Raises:
        CheckError: an unknown family, a family with fewer distinct questions, or reasoning-gym is
            missing.
    """
    shares = dict(families) if isinstance(families, Mapping) else dict.fromkeys(families, 1.0)
    whole = _by_level(shares)
    if not whole or n < 1:
        raise CheckError(f"families={list(shares)}, n={n}; expected at least one of each")
    weight = np.array(list(whole.values()))
    ends = np.round(np.cumsum(weight) / weight.sum() * n).astype(int)
    counts = np.diff(ends, prepend=0)
    items: list[Item] = []
    for (family, count), stream in zip(
        zip(whole, counts, strict=True), np.random.SeedSequence(seed).spawn(len(whole)), strict=True
    ):
        items += _of(family, int(count), stream, part, distinct)
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order]


def grade(item: Item, text: str) -> float:
    """1 where reasoning-gym's grader gives `text` full marks, else 0."""
    if not text:
        return 0.0
    score = _source(item.family, 0).score_answer(text.strip(), item.entry)
    return float(float(score) >= 1.0)


def _by_level(shares: Mapping[str, float]) -> dict[str, float]:
    whole: dict[str, float] = {}
    for name, share in shares.items():
        task, _, level = name.partition("-")
        if task not in _TASKS or level not in ("", *LEVELS) or not share > 0:
            raise CheckError(
                f"family {name!r} with share {share!r}, expected a share above 0 of one of "
                f"{list(TASKS)}, alone or followed by -easy or -hard"
            )
        for one in (level,) if level else LEVELS:
            whole[f"{task}-{one}"] = whole.get(f"{task}-{one}", 0.0) + share / (1 if level else 2)
    return whole


def _of(
    family: str, n: int, stream: np.random.SeedSequence, part: Part, distinct: bool
) -> list[Item]:
    task = _TASKS[family.partition("-")[0]]
    found: list[Item] = []
    met: set[str] = set()
    for child in stream.spawn(_ROUNDS):
        if len(found) >= n:
            break
        seed = int(child.generate_state(1)[0] & 0x7FFFFFFF)
        source = _source(family, seed)
        made = [_item(family, task, source[i]) for i in range(max(64, 2 * (n - len(found))))]
        sides = split_by_question([m.prompt for m in made], test_share=HELD_OUT)
        before = len(found)
        for item, side in zip(made, sides, strict=True):
            if (side == "test") != (part == "held out") or (distinct and item.prompt in met):
                continue
            met.add(item.prompt)
            found.append(item)
        if len(found) == before:
            break
    if len(found) < n:
        raise CheckError(
            f"{family} has about {len(found)} distinct questions for {part}, and {n} are wanted: "
            "ask for fewer, for more families, or distinct=False"
        )
    return found[:n]


def _item(family: str, task: _Task, entry: Mapping[str, Any]) -> Item:
    question = str(entry["question"]).strip()
    found = re.search(task.pattern, question)
    if found is None:
        raise CheckError(
            f"{task.dataset} of reasoning-gym asks {question!r}, which does not read as expected; "
            "install a release from 0.1.25 on"
        )
    return Item(family, question, task.shown(found.groups()), str(entry["answer"]), dict(entry))


@lru_cache(maxsize=64)
def _source(family: str, seed: int) -> Any:
    if find_spec("reasoning_gym") is None:
        raise CheckError(
            "these questions come from reasoning-gym, which is not installed; install it with: "
            'pip install "wye[tasks]"'
        )
    name, _, level = family.partition("-")
    task = _TASKS[name]
    gym: Any = import_module("reasoning_gym")
    settings = task.easy if level == "easy" else task.hard
    # The size is a bound for iteration only; items are made when they are asked for.
    return gym.create_dataset(task.dataset, size=1_000_000, seed=seed, **settings)
