"""Conformal routing: sets of options that hold the true one as often as promised.

Papers: arXiv 2505.19970 (CP-Router), arXiv 2305.18404. SmolLM2-135M gives each of four options a
probability; the questions are made of the log's own right answers (`option_questions`). Half of
them calibrate, half are measured on, split anew for every seed. Coverage is a theorem for
exchangeable questions: missing it would be a fault of the code, while a weak model yields large
sets and defers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

ALPHAS = (0.1, 0.3)
QUESTIONS = 800
LEAST = 200
SLACK = 0.05


def check(context: CheckContext) -> CheckResult:
    """Coverage, size of sets, share accepted and accuracy of what is accepted, at two alphas.

    Raises:
        CheckError: fewer than 200 questions with options can be made, or SmolLM2 is missing.
    """
    from wye.checks.query.option_questions import option_probabilities, option_questions
    from wye.query.uncertainty.conformal import ConformalSets, coverage

    questions = option_questions(context.data, most=QUESTIONS)
    n = len(questions.prompts)
    if n < LEAST:
        raise CheckError(f"{context.data.name} gives {n} questions with options, {LEAST} needed")
    context.progress(f"SmolLM2 reads {n} questions")
    p, truth = option_probabilities(questions.prompts), questions.truth
    rows = []
    for seed in context.seeds:
        order = np.random.default_rng(seed).permutation(n)
        learn, test = order[: n // 2], order[n // 2 :]
        right = p[test].argmax(axis=1) == truth[test]
        row = {"accuracy": float(right.mean())}
        for alpha in ALPHAS:
            fitted = ConformalSets.fit(p[learn], truth[learn], alpha=alpha)
            sets, accepted = fitted.sets(p[test]), fitted.accepts(p[test])
            row |= {
                f"coverage at {alpha}": coverage(sets, truth[test]),
                f"mean set size at {alpha}": float(sets.sum(axis=1).mean()),
                f"accepted at {alpha}": float(accepted.mean()),
                # A set of one is kept as the answer; nothing is claimed where none is.
                f"right among accepted at {alpha}": float(right[accepted].mean())
                if accepted.any()
                else float("nan"),
            }
        rows.append(row)
    figures = averaged(rows)
    claims = tuple(
        Claim(
            f"|coverage - (1 - alpha)| at {alpha}",
            abs(figures[f"coverage at {alpha}"] - (1.0 - alpha)),
            "<=",
            SLACK,
        )
        for alpha in ALPHAS
    )
    text = (
        f"SmolLM2-135M on {n} questions with four options made of {context.data.name}; half "
        "calibrate, half are measured on, split anew for each seed."
    )
    return CheckResult(claims, figures, context.seeds, text)
