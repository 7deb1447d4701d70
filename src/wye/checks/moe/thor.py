"""THOR (arXiv 2110.04260) where data are scarce: do experts agree, and is one draw good enough?

A byte language model on 60 KB of the source of Python's standard library, held out on other files:
4 layers, D 64, 4 experts of width 256 in every second layer, sequences of 64, 600 updates of batch
16. Arms: dense; Switch (top 1, balance loss 0.01), also with 1200 updates, which is THOR's compute;
THOR with alpha 0, 1 and 5. One-draw losses draw an expert per sentence, 8 times.

Where data are plenty (3 MB, 300 updates, one seed) the same arms are printed without a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wye.checks.base import CheckResult, Claim
from wye.moe.build import Shape
from wye.moe.experts import Experts, FeedForward
from wye.moe.layer import MoELayer
from wye.moe.learning.consistency import consistent_next_token_loss, disagreement
from wye.moe.learning.training import TrainingLog, evaluate
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.draws import inference
from wye.moe.top_k import router as top_k_router

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.moe.experiment import Arm, Results

SHAPE = Shape(n_layers=4, width=64, hidden=256, n_experts=4, k=1)
STEPS, LENGTH, DRAWS, BATCHES = 600, 64, 8, 16
SMALL, LARGE = 60_000, 3_000_000
AGREEMENT, NEXT_TO_ZERO = 0.5, 0.01
ALPHAS = (0, 1, 5)


def check(context: CheckContext) -> CheckResult:
    """Losses of six arms, and how far two draws disagree."""
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import run_arms

    seeds = context.seeds[:3]
    few = run_arms(
        _arms(dense=True),
        context,
        text=corpus("python", SMALL),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        length=LENGTH,
        eval_batches=BATCHES,
    )
    many = run_arms(
        _arms(dense=False),
        context,
        text=corpus("python", LARGE),
        seeds=seeds[:1],
        shape=SHAPE,
        steps=STEPS // 2,
        length=LENGTH,
        eval_batches=BATCHES,
    )
    ratios = [
        five / zero
        for five, zero in zip(
            few.values("alpha 5", "disagreement"),
            few.values("alpha 0", "disagreement"),
            strict=True,
        )
    ]
    one = {f"alpha {alpha}": few.mean(f"alpha {alpha}", "one-draw loss") for alpha in ALPHAS}
    claims = (
        Claim("largest disagreement(5) / disagreement(0)", max(ratios), "<=", AGREEMENT),
        Claim(
            "one-draw loss(5) - loss(Switch)", one["alpha 5"] - few.mean("switch", "loss"), "<=", 0
        ),
        Claim(
            "one-draw loss(5) - one-draw loss(0)",
            one["alpha 5"] - one["alpha 0"],
            "<=",
            NEXT_TO_ZERO,
        ),
    )
    figures = _figures("60 KB", few) | _figures("3 MB", many)
    text = (
        f"Byte language models on Python source; {STEPS} updates on 60 KB, and without a claim "
        f"{STEPS // 2} on 3 MB with one seed; disagreement is the symmetric divergence of two "
        "draws in nats per held-out token."
    )
    return CheckResult(claims, figures, seeds, text)


def dense_layers(shape: Shape) -> list[nn.Module]:
    """One expert's worth of dense layers."""
    return [_dense(shape) for _ in range(shape.n_layers)]


def switch_layers(shape: Shape) -> list[nn.Module]:
    """Top-1 layers where THOR has experts, the same experts, a balance loss of 0.01."""

    def routed() -> MoELayer:
        router = top_k_router(shape.width, shape.n_experts, k=1)
        router.balance.append(LoadBalanceLoss(0.01))
        experts = Experts(
            shape.n_experts, shape.width, shape.hidden, activation="relu", gated=False
        )
        return MoELayer(router, experts)

    return [_dense(shape) if index % 2 else routed() for index in range(shape.n_layers)]


def drawn(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Held-out loss by each way of inference, and the disagreement of two draws."""
    losses = []
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(1000 * seed + draw)
        with inference(model, "sentence", generator=generator):
            losses.append(evaluate(model, text, batches=BATCHES, length=LENGTH).loss)
    found = {"one-draw loss": float(np.mean(losses)), "one-draw deviation": float(np.std(losses))}
    for mode in ("fixed", "ensemble"):
        with inference(model, mode):
            found[f"{mode} loss"] = evaluate(model, text, batches=BATCHES, length=LENGTH).loss
    held_out = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    ids = held_out[: 128 * LENGTH].reshape(128, LENGTH)
    generator = torch.Generator().manual_seed(seed)
    with inference(model, "sentence", generator=generator):
        found["disagreement"] = disagreement(model, ids)
    return found


def _arms(*, dense: bool) -> dict[str, Arm]:
    from wye.checks.moe.experiment import Arm

    arms = {"dense": Arm(dense_layers)} if dense else {}
    arms["switch"] = Arm(switch_layers)
    if dense:
        arms["switch, twice the steps"] = Arm(switch_layers, steps=2 * STEPS)
    for alpha in ALPHAS:
        objective = partial(consistent_next_token_loss, alpha=float(alpha))
        arms[f"alpha {alpha}"] = Arm("thor", measure=drawn, objective=objective)
    return arms


def _dense(shape: Shape) -> FeedForward:
    return FeedForward(shape.width, shape.hidden, activation="relu", gated=False)


def _figures(name: str, results: Results) -> dict[str, float]:
    """Means over the seeds of what each arm has."""
    wanted = (
        "one-draw loss",
        "one-draw deviation",
        "fixed loss",
        "ensemble loss",
        "disagreement",
    )
    return {
        f"{name}, {arm}: {figure}": results.mean(arm, figure)
        for arm in results.arms
        for figure in (wanted if arm.startswith("alpha") else ("loss",))
    }
