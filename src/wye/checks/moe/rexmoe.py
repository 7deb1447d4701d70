"""ReXMoE (arXiv 2510.17483): are neighbours' experts used, and does opening them slowly help?

A byte language model on the source of Python's standard library: 6 layers, D 96, 8 experts of
width 48 per layer, top 2, sequences of 128, 300 steps of batch 16, balance weight 0.01. Arms: base
(r = 1); r = 3 with all 24 candidates open from the start; r = 3 opened between 10% and 50% of the
steps; base with experts of width 50, which has the parameters of the larger routers.

MaxVio is taken over the candidates that are open; over all 24, where closed ones count as idle, it
is printed too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.core import load_entropy, max_violation, starved_share
from wye.moe.base import routed_layers
from wye.moe.build import Shape
from wye.moe.learning.training import TrainingLog, evaluate
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.open_targets import OpenScores
from wye.moe.rexmoe import physical_load

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

SHAPE = Shape(n_layers=6, width=96, hidden=48, n_experts=8, k=2)
WIDER = Shape(n_layers=6, width=96, hidden=50, n_experts=8, k=2)
STEPS, LENGTH, REUSE = 300, 128, 3
FOREIGN, NEXT_TO_OPEN, NEXT_TO_BASE = 0.10, 0.01, 0.02


def check(context: CheckContext) -> CheckResult:
    """Loss, use of foreign experts and balance of four arms."""
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import Arm, run_arms

    single = {"reuse": 1, "opening": None}
    slow = {"reuse": REUSE, "opening": (STEPS // 10, STEPS // 2)}
    arms = {
        "base": Arm("rexmoe", options=single, measure=use),
        "open": Arm("rexmoe", options={"reuse": REUSE, "opening": None}, measure=use),
        "opened slowly": Arm("rexmoe", options=slow, measure=use),
        "base of width 50": Arm("rexmoe", options=single, shape=WIDER, measure=use),
    }
    seeds = context.seeds[:3]
    results = run_arms(
        arms,
        context,
        text=corpus("python", 3_000_000),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        length=LENGTH,
    )
    loss = {arm: results.mean(arm, "loss") for arm in arms}
    early = {arm: results.mean(arm, "early MaxVio") for arm in arms}
    claims = (
        Claim(
            "share of foreign experts, opened slowly",
            results.mean("opened slowly", "foreign share"),
            ">=",
            FOREIGN,
        ),
        Claim(
            "mean loss(slowly) - loss(open)",
            loss["opened slowly"] - loss["open"],
            "<=",
            NEXT_TO_OPEN,
        ),
        Claim(
            "mean loss(slowly) - loss(base)",
            loss["opened slowly"] - loss["base"],
            "<=",
            NEXT_TO_BASE,
        ),
        Claim(
            "early MaxVio(slowly) - MaxVio(open), over open candidates",
            early["opened slowly"] - early["open"],
            "<=",
            0.0,
        ),
    )
    names = ["loss", "early MaxVio", "early MaxVio of all", "starved tensors", "candidate entropy"]
    figures = results.figures(*names, "foreign share", "seconds_per_step")
    for layer in range(SHAPE.n_layers):
        figures |= {
            f"{arm} foreign share, layer {layer}": results.mean(
                arm, f"foreign share, layer {layer}"
            )
            for arm in ("open", "opened slowly")
        }
    text = (
        f"Byte language models on Python source, {STEPS} steps; early MaxVio is the mean over the "
        "first half of the steps and all layers, starved tensors have under 10% of the mean load "
        "of their group."
    )
    return CheckResult(claims, figures, seeds, text)


def use(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Who uses which candidates, while training and on held-out text."""
    loads = evaluate(model, text, batches=8, length=LENGTH).loads
    layers = routed_layers(model)
    scores = {name: layers[name].router.scores for name in log.layers}
    opened, all_of = [], []
    for name, source in scores.items():
        for step in range(log.loss.shape[0] // 2):
            load = log.loads[name][step]
            opened.append(max_violation(load[_open(source, step)]))
            all_of.append(max_violation(load))
    foreign = [_foreign(loads[name], source) for name, source in scores.items()]
    reuse = len(next(iter(loads.values()))) // SHAPE.n_experts
    tensors = physical_load(loads, reuse)
    return {
        "early MaxVio": float(np.mean(opened)),
        "early MaxVio of all": float(np.mean(all_of)),
        "foreign share": float(np.mean(foreign)),
        "candidate entropy": float(np.mean([load_entropy(load) for load in loads.values()])),
        "starved tensors": float(sum(starved_share(t, below=0.1) * len(t) for t in tensors)),
    } | {f"foreign share, layer {i}": share for i, share in enumerate(foreign)}


def _open(scores: object, step: int) -> NDArray[np.bool_]:
    assert isinstance(scores, OpenScores)
    return np.asarray(scores.open_at(step).numpy())


def _foreign(load: NDArray[np.float64], scores: object) -> float:
    assert isinstance(scores, OpenScores)
    own = load[list(scores.own)].sum()
    return float(1 - own / load.sum())
