"""DynaMoE: a percentile of the token's own gates is top-k; one of the batch follows difficulty.

Paper: arXiv 2603.01697. Residual networks on scikit-learn's digits (450 for training, the rest
held out; 6 layers, D 48, 24 experts of width 48 in all, ReLU, 40 epochs of batch 64): dense; the
published scope "token" with uniform and descending numbers of experts; scope "batch" with every
schedule. No balance loss, as in the paper. Schedules have equal totals, and no order between them
is claimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.digits import Digits, digits
from wye.checks.moe.fitting import fit
from wye.moe.base import routed_layers
from wye.moe.build import Shape
from wye.moe.dynamoe import build
from wye.moe.experts import FeedForward
from wye.moe.models.residual_mlp import ResidualMLP
from wye.moe.parts.schedules import KINDS
from wye.moe.parts.thresholds import percentile_fan_out

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

SHAPE = Shape(n_layers=6, width=48, hidden=48, n_experts=4, k=1)
LEAST, MOST, DENSE_HIDDEN = 1, 7, 96
TAU = 0.5
TRAIN, EPOCHS, BATCH, RATE = 450, 40, 64, 1e-3
SEEDS = 5
SPREAD = 0.3
ACCURACY_SLACK = 0.03
DENSE = "dense"
TOKEN = ("uniform token", "descending token")
BATCH_ARMS = tuple(f"{kind} batch" for kind in KINDS)
ARMS = (DENSE, *TOKEN, *BATCH_ARMS)


def pixels() -> Digits:
    """The digits as rows `[n, 64]` in [0, 1]."""
    data = digits(TRAIN)
    return data._replace(
        train=(data.train.flatten(1) + 1) / 2, held_out=(data.held_out.flatten(1) + 1) / 2
    )


def check(context: CheckContext) -> CheckResult:
    """Spread of the fan-out in both scopes, its relation to loss, totals, accuracy."""
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:SEEDS]
    results = run_trials(trial, ARMS, seeds, context)

    def values(arm: str, name: str) -> list[float]:
        return [results[arm, seed][name] for seed in seeds]

    figures = {
        f"{arm} {name}": float(np.mean(values(arm, name)))
        for arm in ARMS
        for name in results[arm, seeds[0]]
    }
    for arm in ARMS:
        figures[f"{arm} accuracy sd"] = float(np.std(values(arm, "accuracy")))
    routed = (*TOKEN, *BATCH_ARMS)
    off = [abs(v) for arm in TOKEN for v in values(arm, "fan-out less the formula's")]
    correlations = [figures[f"{arm} fan-out ~ loss"] for arm in BATCH_ARMS]
    totals = [v for arm in routed for v in values(arm, "parameters")]
    accuracy = [figures[f"{arm} accuracy"] - figures[f"{DENSE} accuracy"] for arm in routed]
    claims = (
        Claim(
            "largest fan-out sd, scope token",
            max(v for arm in TOKEN for v in values(arm, "fan-out sd")),
            "<=",
            0.0,
        ),
        Claim(
            "least fan-out sd, scope batch",
            min(v for arm in BATCH_ARMS for v in values(arm, "fan-out sd")),
            ">=",
            SPREAD,
        ),
        Claim("fan-out of scope token off the formula", max(off), "<=", 0.0),
        Claim(
            "mean correlation of fan-out and loss, scope batch",
            float(np.mean(correlations)),
            ">=",
            0.0,
        ),
        Claim("spread of parameter totals", max(totals) - min(totals), "<=", 0.0),
        Claim("least accuracy - dense", min(accuracy), ">=", -ACCURACY_SLACK),
    )
    text = (
        f"Residual networks on {TRAIN} digits, {EPOCHS} epochs, tested on the rest. Standard "
        "deviation over test images, mean over layers; correlation is Spearman's of an image's "
        "fan-out over all layers with its loss."
    )
    return CheckResult(claims, figures, seeds, text)


def trial(arm: str, seed: int, *, epochs: int = EPOCHS) -> dict[str, float]:
    """Train one arm and measure it on the held-out digits.

    Args:
        arm: one of `ARMS`.
        seed: of the weights, the order and the noise.
        epochs: of training.
    """
    torch.manual_seed(seed)
    data = pixels()
    model = ResidualMLP(_feed_forwards(arm), data.train.shape[1], SHAPE.width, 10)
    norms = fit(
        model,
        lambda index: F.cross_entropy(model(data.train[index]), data.train_labels[index]),
        TRAIN,
        epochs=epochs,
        batch=BATCH,
        rate=RATE,
        seed=seed,
    )
    with torch.no_grad():
        logits = model(data.held_out)
        loss = F.cross_entropy(logits, data.held_out_labels, reduction="none")
    figures = {
        "accuracy": float((logits.argmax(dim=1) == data.held_out_labels).float().mean()),
        "gradient norm variance": float(np.var(norms[len(norms) // 2 :])),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    if arm != DENSE:
        figures |= _fan_out(model, loss, arm.split(" ")[1])
    return figures


def _feed_forwards(arm: str) -> list[nn.Module]:
    if arm == DENSE:
        return [
            FeedForward(SHAPE.width, DENSE_HIDDEN, gated=False, activation="relu")
            for _ in range(SHAPE.n_layers)
        ]
    schedule, scope = arm.split(" ")
    return build(
        SHAPE,
        schedule=schedule,  # type: ignore[arg-type]
        least=LEAST,
        most=MOST,
        tau=TAU,
        scope=scope,  # type: ignore[arg-type]
        combine="gates",
        balance=0.0,
        activation="relu",
        gated=False,
    )


def _fan_out(model: nn.Module, loss: Tensor, scope: str) -> dict[str, float]:
    from scipy.stats import spearmanr

    layers = routed_layers(model).values()
    counts = torch.stack([layer.last.plan.fan_out() for layer in layers]).double()
    total = counts.sum(dim=0)
    constant = bool((total == total[0]).all())
    rank = 0.0 if constant else float(spearmanr(total.numpy(), loss.numpy()).statistic)
    figures = {
        "fan-out": float(counts.mean()),
        "fan-out sd": float(counts.std(dim=1, correction=0).mean()),
        "sd of the total fan-out": float(total.std(correction=0)),
        "fan-out ~ loss": rank,
    }
    if scope == "token":
        formula = sum(percentile_fan_out(layer.router.n_experts, TAU) for layer in layers)
        figures["fan-out less the formula's"] = float(total.mean()) - formula
    return figures
