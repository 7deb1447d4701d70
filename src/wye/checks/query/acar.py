"""ACAR: probe answers that disagree say where an ensemble pays.

Paper: arXiv 2602.21231. Three byte-level solvers of 0.2 million parameters, each trained for 32
seconds' worth of steps on another mix of eight families of reasoning-gym: four tasks that solvers
of this size learn, easy and hard. The weakest is the probe, sampled three times at temperature 0.7;
all three are the ensemble, in order of their accuracy on 200 questions apart. 600 questions.
Baselines in the same run: one probe answer, the probe's majority, the fixed votes of two and of
three, and the same shares of modes given out at random (its exact expectation). Runs on those
questions, whatever outcomes are named.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckResult, Claim
from wye.checks.query.tasks import LEVELS
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.tasks import Item
    from wye.query.answers.voting import IntArray

Floats = NDArray[np.float64]
FAMILIES = tuple(f"{t}-{v}" for t in ("backward", "letters", "gcd", "legs") for v in LEVELS)
# Each solver meets one half of the families three times as often as the other: the first two tasks,
# the last two, or what is easy of all.
HALVES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 2, 4, 6))
QUESTIONS, APART = 600, 200
PROBES, TEMPERATURE = 3, 0.7
OVER_RANDOM = 0.02
# The difference of means that are equal by construction.
ROUNDING = 1e-9
_LEVELS = (0.0, 0.5, 1.0)


def check(context: CheckContext) -> CheckResult:
    """Accuracy by sigma, of ACAR and of its baselines, and what agreement-but-wrong costs."""
    from wye.checks.moe.trials import run_trials

    results = run_trials(partial(_trial), ["acar"], context.seeds, context)
    figures = averaged([results["acar", seed] for seed in context.seeds])
    by_sigma = [figures[f"accuracy at sigma {s:g}"] for s in _LEVELS]
    gap = figures["full vote"] - figures["ACAR"]
    claims = (
        Claim("smallest fall of accuracy with sigma", -max(np.diff(by_sigma)), ">=", 1e-9),
        Claim("ACAR - random modes", figures["ACAR"] - figures["random modes"], ">=", OVER_RANDOM),
        Claim(
            "full vote - ACAR - agreed but wrong where it is right",
            gap - figures["agreed but wrong, full vote right"],
            "<=",
            ROUNDING,
        ),
    )
    text = (
        f"Three byte-level solvers on eight families of reasoning-gym, {QUESTIONS} questions, "
        f"{PROBES} probe answers at temperature {TEMPERATURE}."
    )
    return CheckResult(claims, figures, context.seeds, text)


def _trial(
    arm: str,
    seed: int,
    steps: int | None = None,
    n_questions: int = QUESTIONS,
    n_apart: int = APART,
) -> dict[str, float]:
    from wye.checks.query.solvers import MEDIUM, Recipe, train_solver
    from wye.checks.query.tasks import draw

    solvers = []
    for n, half in enumerate(HALVES):
        mix = {f: 3.0 if i in half else 1.0 for i, f in enumerate(FAMILIES)}
        solvers.append(train_solver(Recipe.of(mix, MEDIUM, steps=steps, seed=10 * seed + n)))
    items = draw(FAMILIES, n_questions + n_apart, seed=seed + 1_000_003)
    items, apart = items[:n_questions], items[n_questions:]
    prompts = [i.prompt for i in items]
    known = [
        _right(apart, [r[0].text for r in s.answer([i.prompt for i in apart])]).mean()
        for s in solvers
    ]
    order = np.argsort(known, kind="stable")[::-1]
    texts = [[r[0].text for r in solvers[m].answer(prompts)] for m in order]
    drawn = solvers[order[-1]].answer(prompts, temperature=TEMPERATURE, samples=PROBES, seed=seed)
    probes = [[r[n].text for r in drawn] for n in range(PROBES)]
    right = np.column_stack([_right(items, column) for column in [*texts, *probes]])
    return _measured(_numbers([*texts, *probes]), right, len(order))


def _right(items: list[Item], texts: list[str]) -> Floats:
    from wye.checks.query.tasks import grade

    return np.array([grade(i, t) for i, t in zip(items, texts, strict=True)])


def _numbers(columns: list[list[str]]) -> IntArray:
    from wye.query.answers.canonical import canonical
    from wye.query.answers.voting import answer_numbers

    rows = zip(*columns, strict=True)
    return answer_numbers([[canonical(text, "text") for text in row] for row in rows])


def _measured(numbers: IntArray, right: Floats, n_models: int) -> dict[str, float]:
    """Figures from the answers `[Q, K + N]` of the ensemble and the probe, and their grades."""
    from wye.query.acar import answered_in_mode, choose
    from wye.query.answers.attribution import attribution_proxies, leave_one_out, proxy_correlations

    ensemble, probes = numbers[:, :n_models], numbers[:, n_models:]
    rows = np.arange(len(numbers))
    made = choose(probes, ensemble)
    by_mode = {
        mode: right[rows, answered_in_mode(probes, ensemble, np.full(len(rows), mode))]
        for mode in (1, 2, 3)
    }
    answer = right[rows, made.chosen]
    shares = {mode: float((made.mode == mode).mean()) for mode in by_mode}
    value = leave_one_out(ensemble, right[:, :n_models])
    proxies = proxy_correlations(value, attribution_proxies(ensemble))
    probe, full = right[:, n_models], by_mode[3]
    agreed_wrong = (made.mode == 1) & (answer == 0)
    figures = {f"solver {m + 1}": float(right[:, m].mean()) for m in range(n_models)}
    figures |= {
        "one probe answer": float(probe.mean()),
        "probe majority": float(by_mode[1].mean()),
        "vote of two": float(by_mode[2].mean()),
        "full vote": float(full.mean()),
        "ACAR": float(answer.mean()),
        "random modes": sum(shares[m] * float(by_mode[m].mean()) for m in by_mode),
        "calls": float(made.calls.mean()),
        "agreed but wrong": float(agreed_wrong.mean()),
        "agreed but wrong, full vote right": float((agreed_wrong & (full == 1)).mean()),
        "oracle": float(right[:, :n_models].max(axis=1).mean()),
        "leave-one-out ~ similarity": proxies["similarity"],
        "leave-one-out ~ entropy": proxies["entropy"],
    }
    figures |= {f"share of mode {mode}": share for mode, share in shares.items()}
    for sigma in _LEVELS:
        at = np.isclose(made.sigma, sigma)
        figures[f"accuracy at sigma {sigma:g}"] = float(probe[at].mean()) if at.any() else np.nan
    return figures
