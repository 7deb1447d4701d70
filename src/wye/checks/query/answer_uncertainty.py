"""Uncertainty scores tell a small model's right answers from its wrong ones.

U1 to U5 and U7 of the survey arXiv 2603.04445: token probabilities (arXiv 2404.10136),
self-consistency (arXiv 2203.11171), semantic entropy (arXiv 2302.09664), a confidence head on
hidden states (Self-REF, arXiv 2410.13284). The model is the small byte-level solver of
`solver_pool`; what is learned is learned on 500 answered questions and measured on 500 others, none
of which the solver met in training. Runs on those questions, whatever outcomes are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.solver_pool import Asked, Floats

SEEDS = 2
BEST_AUROC = 0.7
CHANCE = 0.5
HELD_TO = ("U1 mean", "U1 quantiles", "U2 margin", "U4 agreement", "U5 semantic entropy")


def check(context: CheckContext) -> CheckResult:
    """AUROC and ECE of each score for "the small model is right"."""
    seeds = context.seeds[:SEEDS]
    results = run_trials(_trial, ["small"], seeds, context)
    figures = averaged([results["small", seed] for seed in seeds])
    rank = {name: figures[f"AUROC {name}"] for name in HELD_TO}
    raw, isotonic = figures["ECE U1 mean"], figures["ECE U1 mean, isotonic"]
    claims = (
        Claim("best AUROC", max(rank.values()), ">=", BEST_AUROC),
        *(Claim(f"AUROC {name}", value, ">=", CHANCE) for name, value in rank.items()),
        Claim("ECE U1 isotonic - raw", isotonic - raw, "<=", 0.0),
    )
    text = (
        "A byte-level solver of 0.07 million parameters on five families of reasoning-gym, 500 "
        "questions to learn scores from and 500 to measure on; 5 samples at temperature 0.7."
    )
    return CheckResult(claims, figures, seeds, text)


def _trial(arm: str, seed: int) -> dict[str, float]:
    from wye.checks.query.solver_pool import SAMPLES, asked, pool_questions, pool_solver
    from wye.query.uncertainty.calibration import auroc, calibrate, calibration_error

    learn, test = pool_questions(seed)
    solver = pool_solver(arm, seed)
    seen = asked(solver, learn, samples=SAMPLES, seed=seed)
    met = asked(solver, test, samples=SAMPLES, seed=seed + 1)
    figures = {"accuracy": float(met.right.mean())}
    for name, (known, scores) in _scores(seen, met, seed).items():
        figures[f"AUROC {name}"] = auroc(scores, met.right)
        figures[f"ECE {name}"] = calibration_error(scores, met.right)
        if name == "U1 mean":
            for method in ("temperature", "platt", "isotonic"):
                mapped = calibrate(known, seen.right, method).apply(scores)
                figures[f"ECE {name}, {method}"] = calibration_error(mapped, met.right)
    return figures


def _scores(seen: Asked, met: Asked, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """By name, the score of every answer learned from and of every answer measured on."""
    from wye.query.policies.judging import Answer
    from wye.query.uncertainty.confidence_token import ConfidenceHead, ConfidenceTokenJudge
    from wye.query.uncertainty.predictive_entropy import PredictiveEntropyJudge
    from wye.query.uncertainty.self_consistency import SelfConsistencyJudge
    from wye.query.uncertainty.semantic_entropy import SemanticEntropyJudge
    from wye.query.uncertainty.token_probability import (
        MarginJudge,
        QuantileJudge,
        QuantileModel,
        TokenProbabilityJudge,
    )

    quantiles = QuantileModel.fit([r.log_probabilities for r in seen.greedy], seen.right)
    judges = {
        "U1 mean": TokenProbabilityJudge("mean"),
        "U1 least": TokenProbabilityJudge("least"),
        "U1 sequence": TokenProbabilityJudge("sequence"),
        "U1 quantiles": QuantileJudge(quantiles),
        "U2 margin": MarginJudge("least"),
        "U3 predictive entropy": PredictiveEntropyJudge(),
        "U4 agreement": SelfConsistencyJudge("text"),
        "U5 semantic entropy": SemanticEntropyJudge("text"),
        "U5 weighted": SemanticEntropyJudge("text", weighted=True),
        "U7 confidence head": ConfidenceTokenJudge(
            ConfidenceHead.fit(seen.hidden, seen.right, seed=seed)
        ),
    }

    def answers(of: Asked) -> list[Answer]:
        return [
            Answer(
                "small",
                reply.text,
                log_probabilities=reply.log_probabilities,
                runner_up=reply.runner_up,
                samples=tuple(s.text for s in drawn),
                sample_log_probabilities=tuple(float(s.log_probabilities.sum()) for s in drawn),
                hidden=state,
            )
            for reply, drawn, state in zip(of.greedy, of.samples, of.hidden, strict=True)
        ]

    known, new = answers(seen), answers(met)
    return {
        name: (
            np.array([judge.score("", a) for a in known], np.float64),
            np.array([judge.score("", a) for a in new], np.float64),
        )
        for name, judge in judges.items()
    }
