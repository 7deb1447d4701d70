"""Speculative decoding: the large model's law exactly, in fewer of its passes.

Paper: arXiv 2211.17192. Byte-level solvers of 0.07 (drafting) and 1 million parameters of
`solver_pool` write answers at temperature 1 in drafts of four bytes. The law: 2,000 answers to each
of five questions against the exact probabilities of all answers under the large solver, by
chi-square with a simulated p; the same draws against the small solver's probabilities, to show that
the test tells them apart. Acceptance and passes: over 300 questions. The deferral mix of the survey
arXiv 2603.04445 beside it. Runs on those questions, whatever outcomes are named.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.solvers import Solver
    from wye.checks.query.tasks import Item
    from wye.query.speculative_decoding import Laws

Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]
SEEDS = 2
GAMMA, LONGEST = 4, 16
ANSWERS, PROMPTS, QUESTIONS = 2000, 5, 300
ALPHA = 0.1
LEAST_EXPECTED = 5.0
SIMULATIONS, NO_CHANCE = 9999, 1e-12
LEAST_P, LEAST_TOKENS, MOST_ERROR = 1e-3, 1.5, 0.02


def check(context: CheckContext) -> CheckResult:
    """Exactness by chi-square, acceptance against its expectation, bytes per pass."""
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:SEEDS]
    results = run_trials(partial(_trial), ["solvers"], seeds, context)
    rows = [results["solvers", seed] for seed in seeds]
    figures = averaged(rows)
    least = min(row["least p, large law"] for row in rows)
    figures["least p, large law"] = least
    error = abs(figures["acceptance"] - figures["expected acceptance"])
    claims = (
        Claim("least p of the large law", least, ">=", LEAST_P),
        Claim("|acceptance - expected|", error, "<=", MOST_ERROR),
        Claim("bytes per pass of the large solver", figures["bytes per pass"], ">=", LEAST_TOKENS),
    )
    text = f"Two byte-level solvers, drafts of {GAMMA} bytes, temperature 1."
    return CheckResult(claims, figures, seeds, text)


def _trial(
    arm: str,
    seed: int,
    n_answers: int = ANSWERS,
    n_prompts: int = PROMPTS,
    n_questions: int = QUESTIONS,
) -> dict[str, float]:
    from wye.checks.query.solver_pool import pool_questions, pool_solver

    small, large = pool_solver("small", seed), pool_solver("large", seed)
    _, items = pool_questions(seed)
    generator = np.random.default_rng(seed)
    p_large, p_small = [], []
    for item in items[:n_prompts]:
        drawn = _drawn_answers(small, large, item, n_answers, generator)
        p_large.append(_fit(large, item, drawn, generator))
        p_small.append(_fit(small, item, drawn, generator))
    row = {"least p, large law": min(p_large), "median p, small law": float(np.median(p_small))}
    for name, alpha in (("", None), (", deferral mix", ALPHA)):
        found = _passes(small, large, items[:n_questions], alpha, generator)
        row |= {f"{key}{name}": value for key, value in found.items()}
    return row


def remembered_laws(solver: Solver) -> Laws:
    """The solver's next-byte laws at temperature 1; a prefix is read once and remembered."""
    import torch

    memory: dict[bytes, Floats] = {}

    def laws(tokens: IntArray, n: int) -> Floats:
        raw = bytes(tokens.tolist())
        prefixes = [raw[: len(raw) - n + 1 + i] for i in range(n)]
        if not all(p in memory for p in prefixes):
            with torch.no_grad():
                logits = solver.model(torch.tensor([tokens.tolist()]))[0, -n:]
            found = torch.softmax(logits.double(), dim=-1).numpy()
            memory.update(zip(prefixes, found, strict=True))
        return np.stack([memory[p] for p in prefixes])

    return laws


def _drawn_answers(
    small: Solver, large: Solver, item: Item, n: int, generator: np.random.Generator
) -> Counter[bytes]:
    """How often speculative decoding gave each answer, the end byte included."""
    from wye.checks.query.solvers import END
    from wye.query.speculative_decoding import speculative_decode

    drafts, follows = remembered_laws(small), remembered_laws(large)
    prompt = np.frombuffer(item.prompt.encode(), np.uint8).astype(np.int64)
    return Counter(
        bytes(
            speculative_decode(
                drafts, follows, prompt, LONGEST, gamma=GAMMA, end=END, generator=generator
            ).tokens.tolist()
        )
        for _ in range(n)
    )


def _fit(
    solver: Solver, item: Item, drawn: Counter[bytes], generator: np.random.Generator
) -> float:
    """p of a Monte Carlo chi-square test of the draws against the solver's own law.

    A random half of the draws names the cells, the other half is tested: the answers expected five
    times or more, one cell for all rarer ones that were named, and one for all that were not. The
    law of the statistic is simulated, so that cells that are hardly ever expected count too: draws
    of answers that the law all but rules out are what the test is for.
    """
    answers, counts = list(drawn), np.array(list(drawn.values()))
    naming = generator.multivariate_hypergeometric(counts, int(counts.sum()) // 2)
    named = [(a, int(c)) for a, c, n in zip(answers, counts - naming, naming, strict=True) if n]
    total = int((counts - naming).sum())
    laws = remembered_laws(solver)
    prompt = list(item.prompt.encode())
    chance, observed = np.zeros(len(named)), np.array([c for _, c in named])
    for k, (answer, _) in enumerate(named):
        steps = laws(np.array([*prompt, *answer[:-1]]), len(answer))
        chance[k] = np.prod(steps[np.arange(len(answer)), list(answer)])
    often = total * chance >= LEAST_EXPECTED
    law = np.array([*chance[often], chance[~often].sum(), 1.0 - chance.sum()])
    seen = np.array([*observed[often], observed[~often].sum(), total - observed.sum()])
    # Rounding can leave the last cell at or below 0; a cell of answers that nobody drew stays out.
    law = np.maximum(law, NO_CHANCE)
    kept = np.append(np.ones(len(law) - 2, bool), [not often.all(), True])
    law, seen = law[kept] / law[kept].sum(), seen[kept]
    expected = total * law
    simulated = generator.multinomial(total, law, size=SIMULATIONS)
    distance = ((simulated - expected) ** 2 / expected).sum(axis=1)
    at_least = int((distance >= ((seen - expected) ** 2 / expected).sum()).sum())
    return (1 + at_least) / (1 + SIMULATIONS)


def _passes(
    small: Solver,
    large: Solver,
    items: list[Item],
    alpha: float | None,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Acceptance, its expectation on the same places, bytes per pass and accuracy."""
    from wye.checks.query.solvers import END
    from wye.checks.query.tasks import grade
    from wye.query.speculative_decoding import speculative_decode

    drafts, follows = remembered_laws(small), remembered_laws(large)
    judged = kept = passes = written = 0
    expected, right = 0.0, []

    for item in items:
        prompt = np.frombuffer(item.prompt.encode(), np.uint8).astype(np.int64)
        found = speculative_decode(
            drafts, follows, prompt, LONGEST, gamma=GAMMA, alpha=alpha, end=END, generator=generator
        )
        judged, kept = judged + found.drafted, kept + found.accepted
        passes, written = passes + found.large_passes, written + len(found.tokens)
        expected += found.expected
        text = bytes(t for t in found.tokens.tolist() if t != END).decode(errors="replace")
        right.append(grade(item, text))
    if not judged:
        raise CheckError("no byte was drafted")
    return {
        "acceptance": kept / judged,
        "expected acceptance": expected / judged,
        "bytes per pass": written / passes,
        "accuracy": float(np.mean(right)),
    }
