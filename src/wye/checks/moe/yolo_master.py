"""YOLO-Master: convolution experts on whole feature maps, run only where they are chosen.

Paper: arXiv 2512.23273. Scenes of scikit-learn's digits (6,000 for training, 1,000 of other digits
held out); a network of three stages (16, 32, 64 channels) with a block after each learns a focal
heat map of centres per class, and a count, in 8 epochs. Blocks: a plain 5 x 5 branch (one expert);
ES-MoE of 3 experts, soft; ES-MoE with top 2, trained masked and evaluated (a) with all experts
masked, (b) sparse, (c) sparse with pruning at 0.4. F1 counts peaks of the right class within one
cell.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.digit_scenes import CLASSES, MOST_OBJECTS, Scenes, scenes
from wye.checks.moe.fitting import fit
from wye.core import Plan
from wye.moe.models.heat_map_net import HeatMapNet, focal_loss, peaks
from wye.moe.yolo_master import EsMoE

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

TRAIN, HELD_OUT, EPOCHS, BATCH, RATE = 6000, 1000, 8, 64, 3e-3
COUNT_WEIGHT = 0.1
TOP_K, PRUNE = 2, 0.4
SAME = 1e-5
F1_SLACK, SOFT_SLACK = 0.02, 0.01
SINGLE, SOFT, SPARSE = "single 5x5", "soft", "top-2"
ARMS = (SINGLE, SOFT, SPARSE)


def check(context: CheckContext) -> CheckResult:
    """Masked against sparse evaluation, what pruning saves and costs, soft against single."""
    from wye.checks.moe.trials import run_trials

    seeds = context.seeds[:2]
    results = run_trials(trial, ARMS, seeds, context)
    figures = {
        f"{arm} {name}": float(np.mean([results[arm, seed][name] for seed in seeds]))
        for arm in ARMS
        for name in results[arm, seeds[0]]
    }
    gap = max(results[SPARSE, seed]["masked - sparse"] for seed in seeds)
    saved = min(
        results[SPARSE, seed]["experts"] - results[SPARSE, seed]["pruned experts"] for seed in seeds
    )
    claims = (
        Claim("largest difference of masked and sparse outputs", gap, "<=", SAME),
        Claim("experts per image and block saved by pruning, least seed", saved, ">=", 1e-3),
        Claim(
            "F1 lost by pruning",
            figures[f"{SPARSE} F1"] - figures[f"{SPARSE} pruned F1"],
            "<=",
            F1_SLACK,
        ),
        Claim(
            "F1 of soft - single",
            figures[f"{SOFT} F1"] - figures[f"{SINGLE} F1"],
            ">=",
            -SOFT_SLACK,
        ),
    )
    text = (
        f"{TRAIN} scenes of digits, {EPOCHS} epochs, {HELD_OUT} held out. Differences are relative "
        "to the largest logit (at least 1); multiply-adds are those of the three blocks, per "
        "image; I(size; expert) is between the most frequent size of a scene and its first expert, "
        "in nats, mean over blocks."
    )
    return CheckResult(claims, figures, seeds, text)


def trial(arm: str, seed: int, *, number: int = TRAIN, epochs: int = EPOCHS) -> dict[str, float]:
    """Train one arm and measure it in its modes of evaluation.

    Args:
        arm: one of `ARMS`.
        seed: of the weights, the scenes and their order.
        number: scenes for training.
        epochs: of training.
    """
    data = scenes(number, held_out=False, seed=seed)
    torch.manual_seed(seed)
    net = HeatMapNet(lambda channels: _block(arm, channels), CLASSES)
    # Depthwise convolutions are a third faster on CPUs in this layout.
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(
        net,
        lambda index: _loss(net, data, index),
        number,
        epochs=epochs,
        batch=BATCH,
        rate=RATE,
        seed=seed,
    )
    held_out = held_out_scenes()
    heat, figures = _evaluated(net, held_out)
    if arm != SPARSE:
        return figures
    _switch(net, sparse=False, least=0.0)
    masked, other = _evaluated(net, held_out)
    gap = float((masked - heat).abs().max()) / max(1.0, float(masked.abs().max()))
    _switch(net, sparse=True, least=PRUNE)
    pruned = _evaluated(net, held_out)[1]
    return (
        figures
        | {"masked - sparse": gap, "masked F1": other["F1"]}
        | {f"pruned {name}": value for name, value in pruned.items()}
    )


@lru_cache(maxsize=1)
def held_out_scenes() -> Scenes:
    """The held-out scenes, the same for every arm and seed."""
    return scenes(HELD_OUT, held_out=True, seed=1_000_003)


def _block(arm: str, channels: int) -> EsMoE:
    if arm == SINGLE:
        return EsMoE(channels, n_experts=1, kernels=[5], balance=0.0)
    return EsMoE(channels, n_experts=3, top_k=TOP_K if arm == SPARSE else None)


def _loss(net: HeatMapNet, data: Scenes, index: Tensor) -> Tensor:
    heat, count = net(data.images[index])
    counted = F.smooth_l1_loss(count, data.count[index].float())
    return focal_loss(heat, data.centres[index]) + COUNT_WEIGHT * counted


def _blocks(net: HeatMapNet) -> list[EsMoE]:
    return [block for block in net.blocks if isinstance(block, EsMoE)]


def _switch(net: HeatMapNet, *, sparse: bool, least: float) -> None:
    for block in _blocks(net):
        block.sparse = sparse
        block.router.selection.least = least  # type: ignore[union-attr]


@torch.no_grad()
def _evaluated(net: HeatMapNet, data: Scenes) -> tuple[Tensor, dict[str, float]]:
    """Logits of the heat maps and the figures of one mode of evaluation."""
    heat, count = net(data.images)
    plans = [block.last.plan for block in _blocks(net)]
    edges = [16, 8, 8]
    work = [
        block.multiply_adds(plan, edge, edge)
        if block.sparse
        else float(sum(e.multiply_adds(edge, edge) for e in block.experts))  # type: ignore[operator]
        for block, plan, edge in zip(_blocks(net), plans, edges, strict=True)
    ]
    experts = torch.stack([plan.fan_out() for plan in plans]).double().mean(dim=0)
    figures = {
        "F1": _f1(peaks(torch.sigmoid(heat)), data.centres > 0),
        "count error": float((count - data.count).abs().mean()),
        "multiply-adds": float(sum(work)),
        "experts": float(experts.mean()),
    }
    if len(_blocks(net)[0].experts) == 1:
        return heat, figures
    for objects in range(1, MOST_OBJECTS + 1):
        some = data.count == objects
        figures[f"experts at {objects} objects"] = float(experts[some].mean())
    for place, plan in enumerate(plans):
        for expert, share in enumerate((plan.dense().sum(dim=0) / plan.n_sources).tolist()):
            figures[f"usage of expert {expert} in block {place}"] = share
    figures["I(size; expert)"] = _information(plans, data)
    return heat, figures


def _f1(found: Tensor, truth: Tensor) -> float:
    """Of peaks and centres `[B, K, G, G]` (booleans), a match within one cell, each once."""
    near_truth = F.max_pool2d(truth.float(), 3, stride=1, padding=1) > 0
    near_found = F.max_pool2d(found.float(), 3, stride=1, padding=1) > 0
    matched = torch.minimum(
        (found & near_truth).sum(dim=(2, 3)), (truth & near_found).sum(dim=(2, 3))
    )
    return float(2 * matched.sum() / (found.sum() + truth.sum()).clamp(min=1))


def _information(plans: list[Plan], data: Scenes) -> float:
    from sklearn.metrics import mutual_info_score

    size = data.sizes.argmax(dim=1).numpy()
    first = [plan.dense().argmax(dim=1).numpy() for plan in plans]
    return float(np.mean([mutual_info_score(size, expert) for expert in first]))
