"""Dynamic MoE: the entropy loss keeps top-p cheap, and difficult tokens take more experts.

Paper: arXiv 2403.07652. A byte language model on Python source (4 layers, D 96, 8 experts of width
64, length 128, batch 16, 300 steps) with top-1 and top-2 of a balance loss of 0.01, top-p 0.4 with
an entropy loss of 1e-2 and of the published 1e-4, and without: the last is the control that
isolates the paper's addition. Difficulty is a held-out token's cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.held_out import held_out_tokens
from wye.moe.build import Shape, routed_stack
from wye.moe.learning.training import TrainingLog
from wye.moe.models.language_model import LanguageModel
from wye.moe.top_k import router as top_k_router

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.moe.experiment import Arm
    from wye.moe.router import ComposedRouter

SHAPE = Shape(n_layers=4, width=96, hidden=64, n_experts=8, k=2)
STEPS, BATCH, LENGTH = 300, 16, 128
P, ALPHA, BETA, PUBLISHED_BETA = 0.4, 1e-2, 1e-2, 1e-4
LOSS_SLACK = 0.01
FAN_OUT = 2.0
CORRELATION = 0.05
FULL, PUBLISHED, WITHOUT = "top-p", "top-p, beta 1e-4", "top-p without entropy loss"


def check(context: CheckContext) -> CheckResult:
    """Fan-out with and without entropy loss, loss against top-1, fan-out against difficulty."""
    from wye.checks.moe.corpus import corpus, shifted
    from wye.checks.moe.experiment import Arm, run_arms

    seeds = context.seeds[:3]
    arms = {
        "top-1": Arm(balanced_top_k, options={"k": 1}),
        "top-2": Arm(balanced_top_k, options={"k": 2}),
        FULL: _arm(BETA),
        PUBLISHED: _arm(PUBLISHED_BETA),
        WITHOUT: _arm(0.0),
    }
    results = run_arms(
        arms,
        context,
        text=corpus("python", 3_000_000),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
    )
    full, without = results.values(FULL, "fan_out"), results.values(WITHOUT, "fan_out")
    found = sum(c > CORRELATION for c in results.values(FULL, "difficulty correlation"))
    wanted = min(2, len(seeds))
    gap = results.mean(FULL, "loss") - results.mean("top-1", "loss")
    claims = (
        Claim(
            "fan-out saved by the entropy loss, least seed",
            min(w - f for f, w in zip(full, without, strict=True)),
            ">=",
            0.0,
        ),
        Claim("loss of top-p - top-1", gap, "<=", LOSS_SLACK),
        Claim("mean fan-out of top-p", results.mean(FULL, "fan_out"), "<=", FAN_OUT),
        Claim(f"seeds with a difficulty correlation above {CORRELATION}", found, ">=", wanted),
    )
    seen = "was seen" if found >= wanted else "was not seen"
    text = (
        f"Byte language models on Python source, {STEPS} steps. That difficult tokens take more "
        f"experts {seen}: Spearman correlation of fan-out and loss by seed "
        f"{', '.join(f'{c:.3f}' for c in results.values(FULL, 'difficulty correlation'))}. Text of "
        f"another kind is {shifted(1000)[1]}."
    )
    hidden = ("seconds", "drop_share", "seconds_per_step")
    figures = {
        name: value for name, value in results.figures().items() if not name.endswith(hidden)
    }
    return CheckResult(claims, figures, seeds, text)


def balanced_top_k(shape: Shape, *, k: int) -> list[nn.Module]:
    """Top-k layers with a balance loss of 0.01, the baseline of the paper."""
    from wye.moe.parts.balance import LoadBalanceLoss

    def router(_: int) -> ComposedRouter:
        made = top_k_router(shape.width, shape.n_experts, k=k)
        made.balance.append(LoadBalanceLoss(ALPHA))
        return made

    return routed_stack(shape, router)


def measure(
    model: LanguageModel, log: TrainingLog, held_out: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Fan-out by layer, over training, on text of another kind, and its rank correlation."""
    from wye.checks.moe.corpus import shifted

    batches = list(held_out_tokens(model, held_out))
    fan_out = torch.cat([tokens.fan_out for tokens in batches])
    loss = torch.cat([tokens.loss for tokens in batches])
    other = held_out_tokens(model, shifted(200_000)[0], batches=4)
    layers = len(log.layers)
    figures = {
        f"fan-out of layer {place}": float(
            np.mean([tokens.plans[name].fan_out().float().mean() for tokens in batches])
        )
        for place, name in enumerate(log.layers)
    }
    return figures | {
        "fan-out over training": float(log.fan_out.mean()),
        "fan-out in the first 50 steps": float(log.fan_out[:50].mean()),
        "fan-out on other text": float(
            np.mean([float(tokens.fan_out.float().mean()) / layers for tokens in other])
        ),
        "difficulty correlation": _correlation(fan_out, loss),
    }


def _arm(beta: float) -> Arm:
    from wye.checks.moe.experiment import Arm

    options = {"p": P, "alpha": ALPHA, "beta": beta}
    return Arm("dynamic-moe", options=options, measure=measure)


def _correlation(fan_out: Tensor, loss: Tensor) -> float:
    """Spearman's; 0 where every token has the same fan-out, of which no rank can be made."""
    from scipy.stats import spearmanr

    if bool((fan_out == fan_out[0]).all()):
        return 0.0
    return float(spearmanr(fan_out.numpy(), loss.numpy()).statistic)
