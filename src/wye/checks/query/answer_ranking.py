"""LLM-Blender's ranker: the best of three real answers, found by comparing them in pairs.

Paper: arXiv 2306.02561. Three byte-level solvers of 0.07, 0.2 and 1 million parameters on five
families of reasoning-gym (`solver_pool`) answer 500 questions to learn from and 500 to measure on.
The ranker reads the texts of question and answers alone, as published, and, for comparison, the
log-probabilities of the answers beside them. Baselines in the same run: the solver that was best in
training, an answer drawn at random, the majority vote, and the answer of the highest mean
log-probability. Runs on those questions, whatever outcomes are named.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.frugal_cascades import Answered

SEEDS = 2


def check(context: CheckContext) -> CheckResult:
    """Accuracy of the answer ranked first, against single solvers, chance and a vote."""
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:SEEDS]
    results = run_trials(partial(_trial), ["solvers"], seeds, context)
    figures = averaged([results["solvers", seed] for seed in seeds])
    ranked = figures["PairRanker"]
    claims = (
        Claim("PairRanker - random answer", ranked - figures["random answer"], ">=", 0.0),
        Claim("PairRanker - best single", ranked - figures["best single"], ">=", 0.0),
    )
    text = "Three byte-level solvers on five families of reasoning-gym; one of their answers taken."
    return CheckResult(claims, figures, seeds, text)


def _trial(arm: str, seed: int) -> dict[str, float]:
    from wye.checks.query.frugal_cascades import answered
    from wye.checks.query.solver_pool import SIZES, pool_questions, pool_solver

    solvers = [pool_solver(name, seed) for name in SIZES]
    learn, test = (answered(solvers, items) for items in pool_questions(seed))
    return ranking_figures(learn, test, seed)


def ranking_figures(learn: Answered, test: Answered, seed: int) -> dict[str, float]:
    """Accuracy on `test` of every way to take one of the answers."""
    from wye.query.answers.canonical import canonical
    from wye.query.answers.voting import answer_numbers, vote
    from wye.query.llm_blender import PairRanker

    rows = np.arange(len(test.questions))
    best = int(learn.right.mean(axis=0).argmax())
    plain = PairRanker(seed=seed).fit(learn.questions, learn.answers, learn.right)
    seeing = PairRanker(seed=seed).fit(learn.questions, learn.answers, learn.right, learn.observed)
    # Ties of the vote go to the largest solver.
    numbers = answer_numbers([[canonical(a, "text") for a in row] for row in test.answers])
    taken = {
        "PairRanker": plain.rank(test.questions, test.answers)[:, 0],
        "PairRanker with log-probabilities": seeing.rank(
            test.questions, test.answers, test.observed
        )[:, 0],
        "majority vote": test.right.shape[1] - 1 - vote(numbers[:, ::-1]).winner,
        "highest mean log-probability": test.observed[:, :, 0].argmax(axis=1),
    }
    figures = {name: float(test.right[rows, column].mean()) for name, column in taken.items()}
    return figures | {
        "best single": float(test.right[:, best].mean()),
        "random answer": float(test.right.mean()),
        "oracle": float(test.right.max(axis=1).mean()),
        "questions with answers of different quality": float(
            (np.ptp(test.right, axis=1) > 0).mean()
        ),
    }
