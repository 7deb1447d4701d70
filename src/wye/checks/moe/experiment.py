"""Arms x seeds: each arm trains the same language model on the same text, but for its layers.

An arm names a system and its options, or a function that builds the layers. `run_trials` is for
checks that train something else than a language model.

Example of a check's use:

    arms = {"none": Arm("top_k"), "switch": Arm("switch", options={"weight": 0.01})}
    results = run_arms(arms, context, seeds=context.seeds[:2], text=corpus("python", 3_000_000))
    results.mean("none", "max_violation")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from wye.checks.base import CheckError
from wye.checks.moe.trials import run_trials
from wye.moe.build import Shape
from wye.moe.learning.training import (
    Evaluation,
    Objective,
    Schedule,
    TrainingLog,
    evaluate,
    next_token_loss,
    train,
)
from wye.moe.models.language_model import LanguageModel

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.moe.corpus import Corpus, Domains

SHAPE = Shape(n_layers=3, width=64, hidden=48, n_experts=8, k=2)
"""The foundations' check: 3 layers, D 64, 8 experts of width 48, top 2."""


@dataclass(frozen=True)
class Trial:
    """One arm with one seed, trained and measured.

    Attributes:
        arm: its name.
        seed: of initial weights, data order and draws.
        log: of the training.
        evaluation: on the held-out text.
        figures: loss, max_violation (mean over the steps, of the layer where that is largest),
            eval_max_violation (largest layer), fan_out (mean over layers, held out), drop_share
            (mean over steps and layers), seconds (whole training), seconds_per_step (median); and
            what the arm's `measure` returned.
    """

    arm: str
    seed: int
    log: TrainingLog
    evaluation: Evaluation
    figures: Mapping[str, float]


Measure = Callable[[LanguageModel, TrainingLog, bytes | Tensor, int], Mapping[str, float]]
"""(trained model in evaluation mode, its log, held-out text, seed) -> figures by name."""


@dataclass(frozen=True)
class Arm:
    """One way to build the layers. Functions must be importable: top level of a module.

    Attributes:
        system: a name of `wye.moe.system_names()`; or a function `(shape, **options) ->
            list[nn.Module]` where no system has that name.
        options: of the system or function.
        measure: figures besides the usual ones.
        prepare: called with (model, seed) before training, to freeze or copy weights.
        shape, steps, rate, schedule, micro_batches, objective, vocabulary, causal: as in
            `run_arms`, for this arm alone; None keeps what all arms have.
    """

    system: str | Callable[..., list[nn.Module]]
    options: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure | None = None
    prepare: Callable[[LanguageModel, int], None] | None = None
    shape: Shape | None = None
    steps: int | None = None
    rate: float | None = None
    schedule: Schedule | None = None
    micro_batches: int | None = None
    objective: Objective | None = None
    vocabulary: int | None = None
    causal: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all arms have in common: the arguments of `run_arms`."""

    shape: Shape
    steps: int
    batch: int
    length: int
    rate: float
    schedule: Schedule
    micro_batches: int
    objective: Objective
    vocabulary: int
    causal: bool
    n_heads: int
    eval_batches: int

    def of(self, arm: Arm) -> Run:
        """The same with what `arm` changes."""
        given = {item.name: getattr(arm, item.name, None) for item in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Results:
    """Every trial, by arm and seed."""

    trials: Mapping[tuple[str, int], Trial]
    seeds: tuple[int, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names in the order in which they were given."""
        return tuple(dict.fromkeys(arm for arm, _ in self.trials))

    def of(self, arm: str) -> list[Trial]:
        """The trials of an arm, in the order of the seeds."""
        if arm not in self.arms:
            raise CheckError(f"no arm is called {arm!r}; there are {list(self.arms)}")
        return [self.trials[arm, seed] for seed in self.seeds]

    def values(self, arm: str, figure: str) -> list[float]:
        """One figure of an arm, seed by seed.

        Raises:
            CheckError: no such arm or figure.
        """
        found = []
        for trial in self.of(arm):
            if figure not in trial.figures:
                raise CheckError(f"{arm} has no figure {figure!r}; it has {list(trial.figures)}")
            found.append(trial.figures[figure])
        return found

    def mean(self, arm: str, figure: str) -> float:
        """Mean of a figure over the seeds."""
        return float(np.mean(self.values(arm, figure)))

    def worst(self, arm: str, figure: str) -> float:
        """Largest of a figure over the seeds."""
        return float(np.max(self.values(arm, figure)))

    def best(self, arm: str, figure: str) -> float:
        """Smallest of a figure over the seeds."""
        return float(np.min(self.values(arm, figure)))

    def figures(self, *names: str) -> dict[str, float]:
        """Means over the seeds under "arm figure", for `CheckResult.figures`; all when no names."""
        return {
            f"{arm} {name}": self.mean(arm, name)
            for arm in self.arms
            for name in (names or self.of(arm)[0].figures)
        }


def run_arms(
    arms: Mapping[str, Arm],
    context: CheckContext,
    *,
    text: Corpus | Domains,
    seeds: Sequence[int] | None = None,
    shape: Shape = SHAPE,
    steps: int = 300,
    batch: int = 16,
    length: int = 64,
    rate: float = 3e-3,
    schedule: Schedule = "constant",
    micro_batches: int = 1,
    objective: Objective = next_token_loss,
    vocabulary: int = 256,
    causal: bool = True,
    n_heads: int = 4,
    eval_batches: int = 16,
    processes: int | None = None,
) -> Results:
    """Train and measure every arm with every seed.

    Args:
        arms: by name; what one sets itself goes before the arguments below.
        context: its `progress` is told how far it is.
        text: trained on one part, measured on the other.
        seeds: those of the context when not given.
        shape: sizes of the layers.
        steps, batch, length, rate, schedule, micro_batches, objective: as in
            `wye.moe.learning.training.train`.
        vocabulary, causal, n_heads: of the model.
        eval_batches: held-out batches.
        processes: as in `run_trials`.

    Raises:
        CheckError: no arms or seeds.
        MoEError: what an arm's system, model or training raises.
    """
    seeds = tuple(context.seeds if seeds is None else seeds)
    run = Run(
        shape=shape,
        steps=steps,
        batch=batch,
        length=length,
        rate=rate,
        schedule=schedule,
        micro_batches=micro_batches,
        objective=objective,
        vocabulary=vocabulary,
        causal=causal,
        n_heads=n_heads,
        eval_batches=eval_batches,
    )
    trial = partial(run_trial, dict(arms), run, text)
    done = run_trials(trial, list(arms), seeds, context, processes=processes)
    return Results(done, seeds)


def run_trial(
    arms: Mapping[str, Arm], run: Run, text: Corpus | Domains, name: str, seed: int
) -> Trial:
    """Train and measure one arm with one seed; weights come from the global generator."""
    arm = arms[name]
    run = run.of(arm)
    model = _model(arm, run)
    if arm.prepare is not None:
        arm.prepare(model, seed)
    log = train(
        model,
        text.train,
        steps=run.steps,
        batch=run.batch,
        length=run.length,
        rate=run.rate,
        schedule=run.schedule,
        micro_batches=run.micro_batches,
        seed=seed,
        objective=run.objective,
    )
    model.eval()
    evaluation = evaluate(
        model,
        text.held_out,
        batches=run.eval_batches,
        batch=run.batch,
        length=run.length,
        objective=run.objective,
    )
    figures = _figures(log, evaluation)
    if arm.measure is not None:
        figures.update(arm.measure(model, log, text.held_out, seed))
    return Trial(name, seed, log, evaluation, figures)


def _model(arm: Arm, run: Run) -> LanguageModel:
    sizes: dict[str, Any] = {
        "length": run.length,
        "vocabulary": run.vocabulary,
        "n_heads": run.n_heads,
        "causal": run.causal,
    }
    if isinstance(arm.system, str):
        return LanguageModel.build(arm.system, run.shape, options=arm.options, **sizes)
    return LanguageModel(arm.system(run.shape, **arm.options), width=run.shape.width, **sizes)


def _figures(log: TrainingLog, evaluation: Evaluation) -> dict[str, float]:
    figures = {
        "loss": evaluation.loss,
        "seconds": float(log.seconds.sum()),
        "seconds_per_step": float(np.median(log.seconds)),
    }
    if log.layers:
        figures["max_violation"] = float(log.max_violation.mean(axis=0).max())
        figures["eval_max_violation"] = max(evaluation.max_violation.values())
        figures["fan_out"] = float(np.mean(list(evaluation.fan_out.values())))
        figures["drop_share"] = float(log.drop_share.mean())
    return figures
