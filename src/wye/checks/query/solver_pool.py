"""A pool of three solvers of rising size, and what they really answered.

Byte-level transformers of 0.07, 0.2 and 1 million parameters (`wye.checks.query.solvers`), trained
on five families of reasoning-gym: letters and gcd, where the small one is nearly as good as the
large one, and words backward, short and long, and legs, where size and training tell. Greedy
accuracy on held-out questions of all five is about 0.34, 0.53 and 0.72. An answer costs as many USD
as its model has million parameters, divided by a thousand.

Shape letters: Q questions, M solvers, N samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.query.solvers import (
    LARGE,
    MEDIUM,
    SMALL,
    Recipe,
    Reply,
    Solver,
    grade,
    train_solver,
)
from wye.checks.query.tasks import Item, draw

if TYPE_CHECKING:
    from wye.data import RoutingData

Floats = NDArray[np.float64]
FAMILIES = ("gcd-easy", "letters-easy", "backward-easy", "backward-hard", "legs-easy")
SIZES = {"small": SMALL, "medium": MEDIUM, "large": LARGE}
QUESTIONS = 500
SAMPLES = 5
TEMPERATURE = 0.7
_USD_PER_PARAMETER = 1e-9


@dataclass(frozen=True)
class Asked:
    """One solver's answers to Q questions.

    Attributes:
        greedy: `[Q]` greedy replies.
        right: `[Q]` 1 where the greedy reply is right, else 0.
        samples: Q rows of N replies at temperature 0.7; empty rows where none were drawn.
        hidden: `[Q, D]` hidden state at the end of each greedy reply.
    """

    greedy: list[Reply]
    right: Floats
    samples: list[list[Reply]]
    hidden: Floats


def pool_solver(size: str, seed: int) -> Solver:
    """The solver `small`, `medium` or `large` of a seed, trained once in this process."""
    return train_solver(Recipe.of(FAMILIES, SIZES[size], seed=seed))


def pool_questions(seed: int) -> tuple[list[Item], list[Item]]:
    """500 questions to learn from and 500 others to test on, none of which a solver met."""
    items = draw(FAMILIES, 2 * QUESTIONS, seed=seed + 1_000_003)
    return items[:QUESTIONS], items[QUESTIONS:]


def asked(solver: Solver, items: Sequence[Item], *, samples: int = 0, seed: int = 0) -> Asked:
    """Let a solver answer, greedily and `samples` times by sampling."""
    prompts = [i.prompt for i in items]
    greedy = [r[0] for r in solver.answer(prompts)]
    drawn: list[list[Reply]] = [[] for _ in items]
    if samples:
        drawn = solver.answer(prompts, temperature=TEMPERATURE, samples=samples, seed=seed)
    right = np.array([grade(i, r.text) for i, r in zip(items, greedy, strict=True)])
    return Asked(greedy, right, drawn, solver.hidden_states(prompts, [r.text for r in greedy]))


def pool_outcomes(items: Sequence[Item], answers: dict[str, Asked], cost: Floats) -> RoutingData:
    """The pool's answers as outcomes, with U1 (mean token probability) as `confidence`.

    Args:
        items: Q questions.
        answers: by solver.
        cost: `[M]` USD of an answer of each.
    """
    import pandas as pd

    from wye.data import RoutingData
    from wye.query.uncertainty.token_probability import token_probability

    ids = [f"q{i}" for i in range(len(items))]
    queries = pd.DataFrame(
        {
            "query_id": ids,
            "dataset": [i.family for i in items],
            "text": [i.question for i in items],
            "split": "train",
        }
    )
    outcomes = [
        pd.DataFrame(
            {
                "query_id": ids,
                "model": name,
                "quality": said.right,
                "cost_usd": float(usd),
                "confidence": [token_probability(r.log_probabilities) for r in said.greedy],
            }
        )
        for (name, said), usd in zip(answers.items(), cost, strict=True)
    ]
    models = pd.DataFrame({"model": list(answers), "provider": "solvers"})
    return RoutingData(
        queries=queries,
        outcomes=pd.concat(outcomes, ignore_index=True),
        models=models,
        name="solver-pool",
    )


def pool_cost(solvers: Sequence[Solver]) -> Floats:
    """`[M]` USD of one answer of each solver."""
    return np.array([s.parameters * _USD_PER_PARAMETER for s in solvers])
