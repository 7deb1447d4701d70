"""RoutingGen: tasks that the short prompt solves go to it, the others to a derivation.

Paper: arXiv 2512.14048. The generator is a byte-level transformer of 2.2 million parameters that
learned half of its pairs as `D question -> answer` and half as `R question -> derivation > answer`;
the two prefixes are the two strategies. Families of reasoning-gym, easy and hard: sums, letters of
texts, legs of animals, greatest common divisors. A logistic regression on MiniLM embeddings of 300
questions, labelled by which strategy is right (direct where direct is, else the derivation), routes
400 others. Baselines, in the same run: always direct, always the
derivation, and a random route with the same share of direct ones, in expectation. Tokens are bytes
that the generator writes, the end included; the classifier writes none.

Besides, SmolLM2-135M-Instruct labels 20 of the tasks, by what it writes and by the probabilities of
the labels; nothing is asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wye.checks.base import CheckContext
    from wye.checks.query.solvers import Solver
    from wye.checks.query.tasks import Item

DIRECT, REASON = "direct", "derivation"
PREFIX = {DIRECT: "D ", REASON: "R "}
N_PRACTICE, N_TRAIN, N_TEST, N_JUDGED = 12_000, 300, 400, 20
STEPS = 600
MOST_BYTES = 96
MOST_TOKENS, LEAST_ACCURACY, LEAST_GAIN = 0.75, -0.01, 0.02


def check(context: CheckContext) -> CheckResult:
    """Tokens and accuracy of the route against both strategies and a random route.

    Raises:
        CheckError: reasoning-gym or the weights of SmolLM2 are missing.
    """
    found = run_trials(trial, ["routed"], context.seeds, context)
    figures = averaged([found["routed", seed] for seed in context.seeds])
    context.progress("SmolLM2 as a judge")
    figures |= judged()
    share = figures["tokens, routed"] / figures["tokens, always derivation"]
    accuracy = figures["accuracy, routed"]
    claims = (
        Claim("tokens / tokens of always derivation", share, "<=", MOST_TOKENS),
        Claim("accuracy - always derivation", accuracy - figures["accuracy, always derivation"],
              ">=", LEAST_ACCURACY),
        Claim("accuracy - random at equal share", accuracy - figures["accuracy, random"],
              ">=", LEAST_GAIN),
    )  # fmt: skip
    text = (
        "Tasks of four families at two levels, answered at once or after a derivation by one tiny "
        f"generator, routed by a classifier of {N_TRAIN} tasks and tested on {N_TEST}. The named "
        "data are not used."
    )
    return CheckResult(claims, figures, context.seeds, text)


def trial(
    arm: str, seed: int, steps: int = STEPS, practice: int = N_PRACTICE, embedder: str = "minilm"
) -> dict[str, float]:
    """Train a generator, let it solve every task in both ways, and route."""
    from sklearn.linear_model import LogisticRegression

    from wye.checks.query.derivations import FAMILIES
    from wye.checks.query.tasks import draw
    from wye.embed import get_embedder
    from wye.query.prompts.programs import strategy
    from wye.query.routinggen import PromptRouter, RuleScorer

    solver = _generator(seed, steps, practice)
    items = draw(list(FAMILIES), N_TRAIN + N_TEST, seed=seed)
    right, tokens = _outcomes(solver, items)
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    vectors = get_embedder(embedder).embed([i.question for i in items])
    label = right[DIRECT][train]
    row_of = {item.question: row for row, item in enumerate(items)}
    if label.min() < label.max():
        chance = LogisticRegression(max_iter=2000).fit(vectors[train], label).predict_proba(vectors)
        direct = chance[:, 1] >= 0.5
    else:
        direct = np.full(len(items), bool(label[0]))
    rule = RuleScorer("logistic", lambda task: DIRECT if direct[row_of[task]] else REASON)
    programs = {DIRECT: strategy("direct"), REASON: strategy("step-by-step")}
    choices = PromptRouter(rule, programs).choose([i.question for i in items[test]])
    short = np.array([c.strategy == DIRECT for c in choices])
    share = float(short.mean())

    def over(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
        d, r = values[DIRECT][test], values[REASON][test]
        return {
            "always direct": float(d.mean()),
            "always derivation": float(r.mean()),
            "routed": float(np.where(short, d, r).mean()),
            "random": float(share * d.mean() + (1 - share) * r.mean()),
            "best of both": float(np.maximum(d, r).mean()),
        }

    row = {f"accuracy, {name}": value for name, value in over(right).items()}
    spent = over(tokens)
    row |= {f"tokens, {name}": v for name, v in spent.items() if name != "best of both"}
    return row | {"share direct": share, "parameters, millions": solver.parameters / 1e6}


def judged() -> dict[str, float]:
    """Labels of SmolLM2 for some of the tasks, written and by their probabilities."""
    from wye.checks.query.derivations import FAMILIES
    from wye.checks.query.smollm_chat import smollm_chat
    from wye.checks.query.tasks import draw
    from wye.query.routinggen import UNKNOWN, JudgeScorer

    chat = smollm_chat()
    questions = [i.question for i in draw(list(FAMILIES), N_JUDGED, seed=0)]
    figures: dict[str, float] = {}
    for by in ("text", "log-probabilities"):
        # Only the start is read, so that no more is written than a label takes.
        scorer = JudgeScorer(
            chat, by="text" if by == "text" else "log-probabilities", max_tokens=12
        )
        choices = scorer.choose(questions)
        lost = float(np.mean([c.label == UNKNOWN for c in choices]))
        easy = float(np.mean([c.label == "Easy" for c in choices]))
        figures |= {f"judge by {by}: unparsable": lost, f"judge by {by}: easy": easy}
    return figures


def _generator(seed: int, steps: int, practice: int) -> Solver:
    from wye.checks.query.derivations import FAMILIES, MARK, derivation
    from wye.checks.query.solvers import Size, fit_solver
    from wye.checks.query.tasks import draw

    items = draw(list(FAMILIES), practice, seed=seed, part="practice", distinct=False)
    half = len(items) // 2
    pairs = [(PREFIX[DIRECT] + i.prompt, i.answer) for i in items[:half]]
    pairs += [(PREFIX[REASON] + i.prompt, f"{derivation(i)}{MARK}{i.answer}") for i in items[half:]]
    return fit_solver(
        pairs, Size(n_layers=5, width=192, n_heads=6, steps=steps), seed=seed, length=224
    )


def _outcomes(
    solver: Solver, items: Sequence[Item]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Whether each strategy is right on each task, and how many bytes it wrote."""
    from wye.checks.query.derivations import answer_of
    from wye.checks.query.tasks import grade

    right, tokens = {}, {}
    for name, prefix in PREFIX.items():
        replies = solver.answer([prefix + i.prompt for i in items], most=MOST_BYTES)
        right[name] = np.array(
            [grade(i, answer_of(r[0].text)) for i, r in zip(items, replies, strict=True)]
        )
        tokens[name] = np.array([float(len(r[0].log_probabilities)) for r in replies])
    return right, tokens
