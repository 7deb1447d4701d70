"""Arms x seeds: each arm trains the same language model on the same text, but for its layers.

An arm names a system and its options, or a function that builds the layers. Every (arm, seed) is
one trial on one thread: the models are tiny, so that more threads would only wait for each other.
Trials run side by side in as many processes as PyTorch would use threads, two at most; the figures
are the same however many there are.

Example of a check's use:

    arms = {"none": Arm("top_k"), "switch": Arm("switch", options={"weight": 0.01})}
    results = run_arms(arms, context, seeds=context.seeds[:2], text=corpus("python", 3_000_000))
    results.mean("none", "max_violation")
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wye.checks.base import CheckError
from wye.moe.build import Shape
from wye.moe.language_model import LanguageModel
from wye.moe.training import (
    Evaluation,
    Objective,
    Schedule,
    Step,
    TrainingLog,
    evaluate,
    next_token_loss,
    train,
)

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.moe.corpus import Corpus

SHAPE = Shape(n_layers=3, width=64, hidden=48, n_experts=8, k=2)
"""The foundations' check: 3 layers, D 64, 8 experts of width 48, top 2."""

_PROCESSES = 2
_SAID_EVERY = 20


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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an arm may change of the run; None keeps the run's own.

    Attributes:
        shape: sizes of the layers.
        steps: optimiser steps.
        rate: learning rate.
        schedule: "constant" or "cosine".
        micro_batches: per optimiser step.
        objective: importable function, as in `wye.moe.training.train`.
        vocabulary: V of the model.
        causal: whether attention sees the past alone.
    """

    shape: Shape | None = None
    steps: int | None = None
    rate: float | None = None
    schedule: Schedule | None = None
    micro_batches: int | None = None
    objective: Objective | None = None
    vocabulary: int | None = None
    causal: bool | None = None


@dataclass(frozen=True)
class Arm:
    """One way to build the layers. Functions must be importable: top level of a module.

    Attributes:
        system: a name of `wye.moe.system_names()`; or a function `(shape, **options) ->
            list[nn.Module]` where no system has that name.
        options: of the system or function.
        setting: what this arm changes of the run.
        measure: figures besides the usual ones.
        prepare: called with the model before training, to freeze or copy weights.
    """

    system: str | Callable[..., list[nn.Module]]
    options: Mapping[str, Any] = field(default_factory=dict)
    setting: Setting = field(default_factory=Setting)
    measure: Measure | None = None
    prepare: Callable[[LanguageModel, int], None] | None = None


@dataclass(frozen=True)
class Run:
    """What all arms have in common: as the arguments of `run_arms`."""

    setting: Setting
    batch: int
    length: int
    n_heads: int
    eval_batches: int


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
    text: Corpus,
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
        arms: by name; their settings override the arguments below.
        context: its `progress` is told how far it is.
        text: trained on one part, measured on the other.
        seeds: those of the context when not given.
        shape: sizes of the layers.
        steps, batch, length, rate, schedule, micro_batches, objective: as in
            `wye.moe.training.train`.
        vocabulary, causal, n_heads: of the model.
        eval_batches: held-out batches.
        processes: side by side; by default as many as PyTorch has threads, 2 at most. In scripts
            guard the main module, since the processes are spawned.

    Raises:
        CheckError: no arms or seeds.
        MoEError: what an arm's system, model or training raises.
    """
    seeds = tuple(context.seeds if seeds is None else seeds)
    if not arms or not seeds:
        raise CheckError(f"arms={list(arms)} and seeds={list(seeds)}, expected at least one each")
    setting = Setting(
        shape=shape,
        steps=steps,
        rate=rate,
        schedule=schedule,
        micro_batches=micro_batches,
        objective=objective,
        vocabulary=vocabulary,
        causal=causal,
    )
    run = Run(setting, batch, length, n_heads, eval_batches)
    # Seed by seed, so that the arms of one seed meet the same load of the machine.
    jobs = [(name, seed) for seed in seeds for name in arms]
    if processes is None:
        processes = min(_PROCESSES, torch.get_num_threads())
    processes = min(processes, len(jobs))
    work = _here if processes <= 1 else _side_by_side
    done = {(t.arm, t.seed): t for t in work(jobs, arms, run, text, context, processes)}
    return Results({(name, seed): done[name, seed] for name in arms for seed in seeds}, seeds)


def run_trial(
    name: str,
    arm: Arm,
    seed: int,
    run: Run,
    text: Corpus,
    progress: Callable[[Step], None] | bool = False,
) -> Trial:
    """Train and measure one arm with one seed, in this process and on one thread."""
    changed = {k: v for k, v in vars(arm.setting).items() if v is not None}
    setting = replace(run.setting, **changed)
    shape, objective = setting.shape or SHAPE, setting.objective or next_token_loss
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(arm, shape, setting, run)
        if arm.prepare is not None:
            arm.prepare(model, seed)
        log = train(
            model,
            text.train,
            steps=setting.steps or 1,
            batch=run.batch,
            length=run.length,
            rate=setting.rate or 0.0,
            schedule=setting.schedule or "constant",
            micro_batches=setting.micro_batches or 1,
            seed=seed,
            objective=objective,
            progress=progress,
        )
        model.eval()
        evaluation = evaluate(
            model,
            text.held_out,
            batches=run.eval_batches,
            batch=run.batch,
            length=run.length,
            objective=objective,
        )
        figures = _figures(log, evaluation)
        if arm.measure is not None:
            figures.update(arm.measure(model, log, text.held_out, seed))
    return Trial(name, seed, log, evaluation, figures)


def _model(arm: Arm, shape: Shape, setting: Setting, run: Run) -> LanguageModel:
    sizes: dict[str, Any] = {
        "length": run.length,
        "vocabulary": setting.vocabulary,
        "n_heads": run.n_heads,
        "causal": setting.causal,
    }
    if isinstance(arm.system, str):
        return LanguageModel.build(arm.system, shape, options=arm.options, **sizes)
    return LanguageModel(arm.system(shape, **arm.options), width=shape.width, **sizes)


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


def _here(
    jobs: Sequence[tuple[str, int]],
    arms: Mapping[str, Arm],
    run: Run,
    text: Corpus,
    context: CheckContext,
    processes: int,
) -> Iterator[Trial]:
    for number, (name, seed) in enumerate(jobs, start=1):

        def told(step: Step, name: str = name, seed: int = seed, number: int = number) -> None:
            if step.number % _SAID_EVERY == 1:
                context.progress(
                    f"{number}/{len(jobs)} {name}, seed {seed}: step {step.number}/{step.steps}, "
                    f"loss {step.loss:.3f}, MaxVio {step.max_violation:.2f}"
                )

        yield run_trial(name, arms[name], seed, run, text, told)


_shared: dict[str, Any] = {}


def _receive(arms: Mapping[str, Arm], run: Run, text: Corpus) -> None:
    """What every job of a worker needs is sent to it once."""
    torch.set_num_threads(1)
    _shared.update(arms=arms, run=run, text=text)


def _work(name: str, seed: int) -> Trial:
    return run_trial(name, _shared["arms"][name], seed, _shared["run"], _shared["text"])


def _side_by_side(
    jobs: Sequence[tuple[str, int]],
    arms: Mapping[str, Arm],
    run: Run,
    text: Corpus,
    context: CheckContext,
    processes: int,
) -> Iterator[Trial]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=spawn, initializer=_receive, initargs=(dict(arms), run, text)
    ) as pool:
        context.progress(f"0/{len(jobs)} done, in {processes} processes")
        pending = [pool.submit(_work, name, seed) for name, seed in jobs]
        try:
            for number, future in enumerate(as_completed(pending), start=1):
                trial = future.result()
                context.progress(
                    f"{number}/{len(jobs)} done, last {trial.arm}, seed {trial.seed}: "
                    f"loss {trial.figures['loss']:.3f}"
                )
                yield trial
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
