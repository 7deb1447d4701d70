"""SSR: transport in a small share of the training steps evens out what evaluation does without it.

Paper: arXiv 2511.08972. A byte model of 3 layers (D = 64, 8 experts of width 48, top 2) on Python
source, 400 steps of 16 x 64 bytes. No auxiliary loss in any arm but the last. Evaluation is plain
softmax top-k in all arms, so that nothing there is balanced by constraint; its MaxVio is the mean
over the layers, and an expert is starved below a quarter of the mean load. Times are taken on
models that train in turn, step by step, so that all meet the same load of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.corpus import corpus
from wye.checks.moe.experiment import SHAPE, Arm, run_arms
from wye.core import max_violation, starved_share
from wye.moe.base import after_step
from wye.moe.learning.text_windows import WindowReader
from wye.moe.learning.training import evaluate, next_token_loss
from wye.moe.models.language_model import LanguageModel
from wye.moe.selective_sinkhorn import SelectiveSinkhorn

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.moe.learning.training import TrainingLog

SEEDS, BYTES, STEPS, BATCH, LENGTH = 2, 3_000_000, 400, 16, 64
SLOWER, LOSS_SLACK = 0.10, 0.02
TIMED, WARM = 300, 10


def measured(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Evaluation load, and what the solver did in training."""
    loads = evaluate(model, text, batches=16, batch=BATCH, length=LENGTH).loads
    figures = {
        "eval_violation": float(np.mean([max_violation(load) for load in loads.values()])),
        "starved": float(sum(starved_share(load) * len(load) for load in loads.values())),
    }
    solves = [s for m in model.modules() if isinstance(m, SelectiveSinkhorn) for s in m.trace]
    transported = [s for s in solves if s.branch == "ot"]
    if transported:
        figures["transported"] = len(transported) / len(solves)
        figures["rounds"] = float(np.mean([s.rounds for s in transported]))
        figures["unconverged"] = float(np.mean([not s.converged for s in transported]))
    return figures


def _ssr(p: float, noise: float = 0.0) -> Arm:
    return Arm("selective-sinkhorn", {"p": p, "noise": noise}, measure=measured)


VANILLA = "vanilla"
ARMS = {
    VANILLA: _ssr(0.0),
    "p=0.01": _ssr(0.01),
    "p=0.1": _ssr(0.1),
    "p=0.3": _ssr(0.3),
    "p=0.1, noise": _ssr(0.1, noise=0.1),
    "p=1": _ssr(1.0),
    "balance loss": Arm("balance_loss", {"weight": 0.01}, measure=measured),
}
CLAIMED = ("p=0.1", "p=0.3")
SELECTIVE = ("p=0.01", "p=0.1", "p=0.3", "p=0.1, noise")


def check(context: CheckContext) -> CheckResult:
    """Load, time and loss of seven arms."""
    results = run_arms(
        ARMS,
        context,
        text=corpus("python", BYTES),
        seeds=context.seeds[:SEEDS],
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
    )
    vanilla = results.values(VANILLA, "eval_violation")
    claims = [
        Claim(
            f"evaluation MaxVio, {name} over vanilla, worst seed",
            max(
                o / v for o, v in zip(results.values(name, "eval_violation"), vanilla, strict=True)
            ),
            "<=",
            1.0,
        )
        for name in CLAIMED
    ]
    context.progress("time per step")
    pace = paced({VANILLA: 0.0, "p=0.01": 0.01, "p=1": 1.0}, corpus("python", BYTES).train)
    best = min(results.mean(name, "loss") for name in SELECTIVE)
    claims += [
        Claim("time per step, p=0.01 over vanilla", pace["p=0.01"] / pace[VANILLA], "<=", 1.05),
        Claim("time per step, p=1 over vanilla", pace["p=1"] / pace[VANILLA], ">=", 1 + SLOWER),
        Claim(
            "validation loss of the best SSR arm less vanilla",
            best - results.mean(VANILLA, "loss"),
            "<=",
            LOSS_SLACK,
        ),
    ]
    figures = {
        f"{name} {figure}": results.mean(name, figure)
        for name in ARMS
        for figure in (
            "loss",
            "eval_violation",
            "starved",
            "seconds",
            "transported",
            "rounds",
            "unconverged",
        )
        if all(figure in trial.figures for trial in results.of(name))
    }
    figures |= {f"{name} seconds per step": value for name, value in pace.items()}
    text = (
        f"Byte models on Python source, {STEPS} steps; evaluation is plain top-k everywhere; time "
        f"per step is the mean of {TIMED} steps that the arms take in turn."
    )
    return CheckResult(tuple(claims), figures, results.seeds, text)


def paced(arms: Mapping[str, float], text: bytes) -> dict[str, float]:
    """Mean seconds of a training step by arm, given its p; the arms step in turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        reader = WindowReader(text, BATCH, LENGTH)
        models = {
            name: LanguageModel.build("selective-sinkhorn", SHAPE, length=LENGTH, options={"p": p})
            for name, p in arms.items()
        }
        optimisers = {n: torch.optim.AdamW(m.parameters(), lr=3e-3) for n, m in models.items()}
        total = dict.fromkeys(arms, 0.0)
        for step in range(WARM + TIMED):
            window = reader.windows(generator)
            for name, model in models.items():
                started = time.perf_counter()
                torch.autograd.backward(next_token_loss(model, window, generator))
                optimisers[name].step()
                optimisers[name].zero_grad(set_to_none=True)
                after_step(model)
                if step >= WARM:
                    total[name] += time.perf_counter() - started
    return {name: seconds / TIMED for name, seconds in total.items()}
