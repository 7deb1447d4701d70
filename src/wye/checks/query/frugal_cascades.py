"""FrugalGPT and AutoMix with real answers, real scores and real self-verification.

Papers: arXiv 2305.05176 (FrugalGPT), arXiv 2310.12963 (AutoMix). Byte-level solvers of 0.07 and 1
million parameters on five families of reasoning-gym (`solver_pool`), an answer at the cost of the
solver's parameters; 500 questions to learn from, 500 to measure on.

FrugalGPT, two stages: a logistic scorer on question, answer and log-probabilities, chain and
threshold searched at twelve budgets between the costs of the two. Baseline: the random mix of the
two at the same spending.

AutoMix: the small solver, trained further on its own graded answers to practice questions so that
it can be asked whether an answer is right, gives eight verdicts. All kinds of meta-verifier, and
the best of them in training. A verification costs as much as an answer of the small solver. The
figure is the IBC lift on the test questions: benefit per cost beyond sending everything to the
large one. The same with the share of five samples that agree with the answer, which needs no
verifier.

Both run on those questions, whatever outcomes are named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from wye.checks.base import CheckContext
    from wye.checks.query.solvers import Reply, Solver
    from wye.checks.query.tasks import Item
    from wye.query.automix import TwoModelOutcomes

Floats = NDArray[np.float64]
SEEDS = 2
BUDGETS = 12
OVER_MIX = 0.01
VERDICTS = 8
PRACTICE = 4000
VERIFIER_STEPS = 350
_PAIR = ("small", "large")


def frugalgpt(context: CheckContext) -> CheckResult:
    """Mean quality at twelve budgets of the chain and of the random mix."""
    figures, seeds = _figures(_frugal_trial, context)
    gain = figures["FrugalGPT"] - figures["random mix at its cost"]
    claims = (Claim("FrugalGPT - random mix", gain, ">=", OVER_MIX),)
    text = f"FrugalGPT over two byte-level solvers; mean quality at {BUDGETS} budgets."
    return CheckResult(claims, figures, seeds, text)


def automix(context: CheckContext) -> CheckResult:
    """IBC lift of every meta-verifier on test questions."""
    figures, seeds = _figures(_automix_trial, context)
    claims = (Claim("IBC lift", figures["lift"], ">=", 0.0),)
    text = f"AutoMix over two byte-level solvers; {VERDICTS} verdicts of the small one on itself."
    return CheckResult(claims, figures, seeds, text)


def _figures(
    trial: Callable[[str, int], dict[str, float]], context: CheckContext
) -> tuple[dict[str, float], tuple[int, ...]]:
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:SEEDS]
    results = run_trials(partial(trial), ["solvers"], seeds, context)
    return averaged([results["solvers", seed] for seed in seeds]), seeds


def _frugal_trial(arm: str, seed: int) -> dict[str, float]:
    from wye.checks.query.solver_pool import pool_cost, pool_questions, pool_solver

    solvers = [pool_solver(name, seed) for name in _PAIR]
    learn, test = (answered(solvers, items) for items in pool_questions(seed))
    return frugal_figures(learn, test, pool_cost(solvers), seed)


@dataclass(frozen=True)
class Answered:
    """Answers of M solvers to Q questions.

    Attributes:
        questions: Q.
        answers: Q rows of M.
        right: `[Q, M]` 1 for a right answer, else 0.
        observed: `[Q, M, X]` what `observed_of` reads of each.
    """

    questions: list[str]
    answers: list[list[str]]
    right: Floats
    observed: Floats


def answered(solvers: list[Solver], items: list[Item]) -> Answered:
    """Let solvers answer, greedily."""
    from wye.checks.query.solver_pool import asked

    said = [asked(s, items) for s in solvers]
    return Answered(
        questions=[i.question for i in items],
        answers=[[a.greedy[q].text for a in said] for q in range(len(items))],
        right=np.column_stack([a.right for a in said]),
        observed=np.array([[observed_of(a.greedy[q]) for a in said] for q in range(len(items))]),
    )


def frugal_figures(learn: Answered, test: Answered, price: Floats, seed: int) -> dict[str, float]:
    """FrugalGPT at twelve budgets between `price[0]` and `price[1]`, and the random mix."""
    from wye.query.frugalgpt import FrugalGPT

    cost, spent = (np.broadcast_to(price, part.right.shape) for part in (learn, test))
    budgets = np.linspace(price[0], price[1], BUDGETS)
    rows: dict[str, list[float]] = {"FrugalGPT": [], "cost share": [], "random mix at its cost": []}
    small, large = test.right.mean(axis=0)
    system = FrugalGPT(budget=float(budgets[0]), max_length=2, seed=seed)
    system.fit(_PAIR, learn.questions, learn.answers, learn.right, cost, learn.observed)
    score = system.score(test.questions, test.answers, test.observed)
    for budget in budgets:
        at = FrugalGPT(budget=float(budget), max_length=2, seed=seed)
        at.fit_chain(_PAIR, system.training_score_, learn.right, cost)
        outcome = at.run(score, test.right, spent)
        paid = float(outcome.cost.mean())
        share = np.clip((paid - price[0]) / (price[1] - price[0]), 0.0, 1.0)
        rows["FrugalGPT"].append(float(outcome.quality.mean()))
        rows["cost share"].append(paid / float(price[1]))
        rows["random mix at its cost"].append(float(small + share * (large - small)))
    figures = {name: float(np.mean(values)) for name, values in rows.items()}
    auroc = _auroc(score[:, 0], test.right[:, 0])
    return figures | {"small": float(small), "large": float(large), "scorer AUROC": auroc}


def observed_of(reply: Reply) -> tuple[float, float, float]:
    """Mean and least log-probability of a reply's bytes, and the least margin to the runner-up."""
    margin = np.exp(reply.log_probabilities) - np.exp(reply.runner_up)
    return (
        float(reply.log_probabilities.mean()),
        float(reply.log_probabilities.min()),
        float(margin.min()),
    )


def _automix_trial(arm: str, seed: int) -> dict[str, float]:
    from wye.checks.query.solver_pool import SAMPLES, asked, pool_cost, pool_questions, pool_solver
    from wye.query.automix import AutoMix, MetaVerifier

    solvers = {name: pool_solver(name, seed) for name in _PAIR}
    price = pool_cost(list(solvers.values()))
    verifier = _verifier(solvers["small"], seed)
    sets = []
    for items in pool_questions(seed):
        said = asked(solvers["small"], items, samples=SAMPLES, seed=seed)
        large = asked(solvers["large"], items).right
        answers = [r.text for r in said.greedy]
        agreeing = [
            sum(s.text == a for s in row) / SAMPLES
            for row, a in zip(said.samples, answers, strict=True)
        ]
        sets.append(
            (
                _outcomes(_verdicts(verifier, items, answers, seed), said.right, large, price),
                # Five samples are five answers more.
                replace(
                    _outcomes(np.array(agreeing), said.right, large, price),
                    small_cost=np.full(len(items), price[0] * (1 + SAMPLES)),
                ),
            )
        )
    (learn, learn_agree), (test, test_agree) = sets
    best = AutoMix(k=VERDICTS, seed=seed).fit(learn)
    quality, cost = test.run(best.escalate(test.value))
    agree = AutoMix(k=SAMPLES, seed=seed).fit(learn_agree)
    figures = {
        "lift": test.lift(best.escalate(test.value)),
        "lift in training": best.lift_,
        "quality": quality,
        "cost share": cost / float(price[1]),
        "small": float(test.small.mean()),
        "large": float(test.large.mean()),
        "verifier AUROC": _auroc(test.value, test.small),
        "agreement AUROC": _auroc(test_agree.value, test_agree.small),
        "lift, agreement of 5 samples": test_agree.lift(agree.escalate(test_agree.value)),
    }
    for kind in get_args(MetaVerifier):
        alone = AutoMix(k=VERDICTS, meta_verifiers=[kind], seed=seed).fit(learn)
        figures[f"lift, {kind}"] = test.lift(alone.escalate(test.value))
    return figures


def _outcomes(value: Floats, small: Floats, large: Floats, price: Floats) -> TwoModelOutcomes:
    from wye.query.automix import TwoModelOutcomes

    one = np.ones(len(value))
    return TwoModelOutcomes(value, small, large, 2 * price[0] * one, price[1] * one, price[0] * one)


def _verifier(
    solver: Solver, seed: int, practice: int = PRACTICE, steps: int = VERIFIER_STEPS
) -> Solver:
    """The small solver, trained further to say whether an answer of its own is right."""
    from wye.checks.query.solver_pool import FAMILIES, SIZES, TEMPERATURE
    from wye.checks.query.solvers import fit_solver
    from wye.checks.query.tasks import draw, grade

    items = draw(FAMILIES, practice, seed=seed + 5_000_011, part="practice", distinct=False)
    said = solver.answer([i.prompt for i in items], temperature=TEMPERATURE, samples=1, seed=seed)
    pairs = [
        (_asked_of(i, r[0].text), "y" if grade(i, r[0].text) else "n")
        for i, r in zip(items, said, strict=True)
    ]
    return fit_solver(pairs, SIZES["small"], steps=steps, seed=seed, start=solver)


def _verdicts(verifier: Solver, items: list[Item], answers: list[str], seed: int) -> Floats:
    prompts = [_asked_of(i, a) for i, a in zip(items, answers, strict=True)]
    drawn = verifier.answer(prompts, temperature=1.0, samples=VERDICTS, most=2, seed=seed)
    return np.array([sum(r.text == "y" for r in row) / VERDICTS for row in drawn])


def _asked_of(item: Item, answer: str) -> str:
    # A solver writes no byte 0, but what it wrote may hold bytes that were replaced.
    return f"{item.prompt}{answer}?"


def _auroc(score: Floats, right: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right, score)) if 0 < right.mean() < 1 else float("nan")
