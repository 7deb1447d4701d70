"""FusionFactory, thought and model level: solved questions like it help a tiny solver, or do not.

Paper: arXiv 2507.10540. A byte-level transformer of 2.3 million parameters learns six families of
reasoning-gym; half of its prompts carry two similar solved questions of the family in front. The
memory holds practice questions, whose template is the solved question itself, and finds by MiniLM
on what varies between questions; in training no question is shown to itself. On 300 questions that
no solver trained on: no template, three templates drawn from other families, the three nearest
within the family. Beside them, with nothing asked of it: three drawn within the family, which tells
how much of the gain is the family and how much the neighbourhood, and the two nearest, as many as
in training.

Model level, printed alone: the solver is trained further on new questions, once on their gold
answers and once on these and up to three right responses of its own earlier states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.solvers import Solver
    from wye.checks.query.tasks import Item
    from wye.query.prompts.thought_memory import Thought, ThoughtMemory

FAMILIES = ("sum", "gcd", "product", "bases", "fraction", "legs")
N_MEMORY, N_TEST, N_DISTILLED = 2400, 300, 1000
STAGES, STEPS, FURTHER_STEPS, BATCH = 4, 480, 160, 16
SHOWN_IN_TRAINING, SHOWN = 2, 3
LENGTH, MOST_BYTES = 320, 24
OVER_RANDOM = 0.05


def check(context: CheckContext) -> CheckResult:
    """Exact match behind the nearest templates against templates of other families.

    Raises:
        CheckError: reasoning-gym is missing.
    """
    found = run_trials(trial, ["thoughts"], context.seeds, context)
    figures = averaged([found["thoughts", seed] for seed in context.seeds])
    gain = figures["nearest in the family"] - figures["drawn from other families"]
    claims = (Claim("nearest - drawn from other families", gain, ">=", OVER_RANDOM),)
    text = (
        f"Exact match of a tiny solver on {N_TEST} questions of {len(FAMILIES)} families, behind "
        f"{SHOWN} solved questions. The named data are not used."
    )
    return CheckResult(claims, figures, context.seeds, text)


def trial(
    arm: str,
    seed: int,
    steps: int = STEPS,
    further_steps: int = FURTHER_STEPS,
    n_memory: int = N_MEMORY,
    n_test: int = N_TEST,
    n_distilled: int = N_DISTILLED,
    embedder: str = "minilm",
) -> dict[str, float]:
    """Train a solver, and ask it behind each kind of templates; then train it further."""
    from wye.checks.query.tasks import draw

    drawn = draw(list(FAMILIES), n_memory, seed=seed, part="practice")
    # An easy and a hard question may be the same.
    held = list({i.prompt: i for i in drawn}.values())
    memory = _memory(held, embedder)
    solvers = _solvers(memory, held, seed, steps)
    items = draw(list(FAMILIES), n_test, seed=seed)
    row: dict[str, float] = {}
    for name, shown in _shown(memory, items, seed).items():
        prompts = [_behind(t, i) for t, i in zip(shown, items, strict=True)]
        row[name] = _right(solvers[-1], prompts, items)
        row[f"{name}, bytes"] = float(np.mean([len(p.encode()) for p in prompts]))
    row |= _distilled(solvers, items, seed, further_steps, n_distilled)
    return row | {"parameters, millions": solvers[-1].parameters / 1e6}


def _memory(items: Sequence[Item], embedder: str) -> ThoughtMemory:
    from wye.query.answers.logged_answers import LoggedAnswer
    from wye.query.prompts.thought_memory import ExtractedTemplates, ThoughtMemory

    solved = [
        LoggedAnswer(i.prompt, i.task, "gold", f"{i.prompt}{i.answer}", performance=1.0)
        for i in items
    ]
    return ThoughtMemory(writer=ExtractedTemplates(sentences=1), embedder=embedder).fit(solved)


def _behind(thoughts: Sequence[Thought], item: Item) -> str:
    return "".join(f"{t.template}\n" for t in thoughts) + item.prompt


def _solvers(memory: ThoughtMemory, held: Sequence[Item], seed: int, steps: int) -> list[Solver]:
    """The states of one solver after each stage of its training."""
    from wye.checks.query.solvers import Size, fit_solver
    from wye.checks.query.tasks import draw

    half = steps * BATCH // 2
    plain = draw(list(FAMILIES), half, seed=seed + 1_000_003, part="practice", distinct=False)
    pairs = [(i.prompt, i.answer) for i in plain]
    near = memory.nearest([i.prompt for i in held], [i.task for i in held], k=SHOWN_IN_TRAINING + 1)
    behind = []
    for item, thoughts in zip(held, near, strict=True):
        others = [t for t in thoughts if t.query != item.prompt][:SHOWN_IN_TRAINING]
        behind.append((_behind(others, item), item.answer))
    pairs += [behind[i % len(behind)] for i in range(half)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    size = Size(n_layers=5, width=192, n_heads=6, steps=steps)
    states: list[Solver] = []
    for stage in range(STAGES):
        part = [pairs[i] for i in order[stage::STAGES]]
        before = states[-1] if states else None
        states.append(
            fit_solver(
                part, size, steps=steps // STAGES, seed=seed + stage, length=LENGTH, start=before
            )
        )
    return states


def _shown(
    memory: ThoughtMemory, items: Sequence[Item], seed: int
) -> dict[str, list[list[Thought]]]:
    """Templates in front of each question, by how they were found."""
    generator = np.random.default_rng(seed)
    own, others = _drawn(memory, items, generator, True), _drawn(memory, items, generator, False)
    near = memory.nearest([i.prompt for i in items], [i.task for i in items], k=SHOWN)
    return {
        "no template": [[] for _ in items],
        "drawn from other families": others,
        "drawn from the family": own,
        "nearest in the family": near,
        "two nearest in the family": [thoughts[:SHOWN_IN_TRAINING] for thoughts in near],
    }


def _drawn(
    memory: ThoughtMemory, items: Sequence[Item], generator: np.random.Generator, same: bool
) -> list[list[Thought]]:
    """`SHOWN` thoughts at random for each question, of its family or of the others."""
    found = []
    for item in items:
        pool = np.flatnonzero((memory.tasks_ == item.task) == same)
        drawn = generator.choice(pool, SHOWN, replace=False).tolist()
        found.append([memory.thoughts_[i] for i in drawn])
    return found


def _right(solver: Solver, prompts: Sequence[str], items: Sequence[Item]) -> float:
    return float(np.mean(_graded(solver, prompts, items)[1]))


def _graded(
    solver: Solver, prompts: Sequence[str], items: Sequence[Item]
) -> tuple[list[str], list[float]]:
    from wye.checks.query.tasks import grade

    replies = [r[0].text for r in solver.answer(prompts, most=MOST_BYTES)]
    return replies, [grade(i, said) for i, said in zip(items, replies, strict=True)]


def _distilled(
    solvers: Sequence[Solver], items: Sequence[Item], seed: int, steps: int, n: int
) -> dict[str, float]:
    """Exact match after training on gold answers, and on right responses of earlier states too."""
    from wye.checks.query.solvers import Size, fit_solver
    from wye.checks.query.tasks import draw
    from wye.query.answers.distillation import distil
    from wye.query.answers.logged_answers import LoggedAnswer

    # Of the same prompt once, for the log is found by query and model.
    fresh = {
        i.prompt: i
        for i in draw(list(FAMILIES), n, seed=seed + 2_000_003, part="practice", distinct=False)
    }
    asked = list(fresh.values())
    log = []
    for state, solver in enumerate(solvers[:-1]):
        said, right = _graded(solver, list(fresh), asked)
        log += [
            LoggedAnswer(i.prompt, i.task, f"state {state}", text, performance=value)
            for i, text, value in zip(asked, said, right, strict=True)
        ]
    gold = {i.prompt: i.answer for i in asked}
    size = Size(n_layers=5, width=192, n_heads=6, steps=steps)
    row = {}
    for name, order in (("gold alone", "gold"), ("gold and right responses", "perf")):
        trained = distil(
            log,
            gold,
            lambda pairs: fit_solver(
                [(p.prompt, p.answer) for p in pairs],
                size,
                seed=seed,
                length=LENGTH,
                start=solvers[-1],
            ),
            order=order,
            best=STAGES - 1,
        )
        row[f"model level, {name}"] = _right(trained, [i.prompt for i in items], items)
    return row
