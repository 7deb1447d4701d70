"""EC-DLM: experts that choose tokens, more of them where few are masked, at the same total cost.

Paper: arXiv 2604.01622. A byte-level masked diffusion model of Python source: 4 bidirectional
layers, D 96, sequences of 128, 16 experts of width 48 and one shared, 200 steps of 32 sequences.
Arms, with the same gates, shared part and z-loss: token choice (top 3, balance loss 0.01, no
capacity); expert choice with 3 experts per token on average; the same with 1 to 5 by the mask
ratio, rising (linear) and falling (linear_reverse) with it. Held out: cross-entropy at five mask
ratios with the same hidden tokens for all arms, and its mean weighted by 1/r, the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wye.checks.base import CheckResult, Claim
from wye.moe.base import routed_layers
from wye.moe.build import Shape, routed_stack
from wye.moe.expert_choice_dlm import NormMatchedGate
from wye.moe.experts import FeedForward
from wye.moe.learning.masked_diffusion import (
    denoiser_of,
    denoising_loss,
    mask_id_of,
    score_denoiser,
)
from wye.moe.learning.training import TrainingLog, evaluate, windows
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.balance import LoadBalanceLoss, ZLoss
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

SHAPE = Shape(n_layers=4, width=96, hidden=48, n_experts=16, k=3)
STEPS, BATCH, LENGTH, VOCABULARY = 200, 32, 128, 257
K_MIN, K_MAX = 1, 5
COST_SLACK, LOSS_SLACK = 0.03, 0.02
_HELD_OUT_BATCHES = 8
_SYSTEM = "expert-choice-dlm"
_EC_ARMS = ("static", "linear", "linear_reverse")


def check(context: CheckContext) -> CheckResult:
    """Bounds of four arms, and what the expert-choice arms spend."""
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import Arm, run_arms

    bounds = {"k_min": K_MIN, "k_max": K_MAX}
    arms = {
        "token choice": Arm(token_choice, measure=restored),
        "static": Arm(_SYSTEM, measure=restored),
        "linear": Arm(_SYSTEM, options=bounds | {"profile": "linear"}, measure=restored),
        "linear_reverse": Arm(
            _SYSTEM, options=bounds | {"profile": "linear_reverse"}, measure=restored
        ),
    }
    seeds = context.seeds[:2]
    results = run_arms(
        arms,
        context,
        text=corpus("python", 3_000_000),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
        objective=denoising_loss,
        vocabulary=VOCABULARY,
        causal=False,
        eval_batches=1,
    )

    def gap(one: str, other: str, figure: str) -> float:
        pairs = zip(results.values(one, figure), results.values(other, figure), strict=True)
        return max(a - b for a, b in pairs)

    spent = [pairs for arm in _EC_ARMS for pairs in results.values(arm, "pairs")]
    claims = (
        Claim(
            "largest over least pairs per sequence, less 1, of the expert-choice arms",
            max(spent) / min(spent) - 1,
            "<=",
            COST_SLACK,
        ),
        Claim("largest MaxVio of static expert choice", results.worst("static", "peak"), "<=", 0.0),
        Claim(
            "bound(linear_reverse) - bound(linear), worse seed",
            gap("linear_reverse", "linear", "bound"),
            "<=",
            0.0,
        ),
        Claim(
            "bound(static) - bound(token choice), worse seed",
            gap("static", "token choice", "bound"),
            "<=",
            LOSS_SLACK,
        ),
    )
    names = [n for n in results.of("static")[0].figures if n.startswith("entropy")]
    figures = results.figures("bound", *names, "pairs", "peak", "unserved", "seconds_per_step")
    for arm in arms:
        for seed, value in zip(seeds, results.values(arm, "bound"), strict=True):
            figures[f"{arm} bound, seed {seed}"] = value
    text = (
        f"Masked diffusion of Python source, {STEPS} steps of {BATCH} sequences of {LENGTH} bytes; "
        "entropy is in nats per hidden byte at a mask ratio, bound in nats per byte."
    )
    return CheckResult(claims, figures, seeds, text)


def token_choice(shape: Shape) -> list[nn.Module]:
    """Top-k layers with gates, shared expert and z-loss of EC-DLM, and a balance loss."""
    return routed_stack(
        shape,
        lambda _: ComposedRouter(
            shape.width,
            LinearScores(shape.width, shape.n_experts),
            gate=NormMatchedGate(normalise=True, n_shared=1),
            selection=TopK(shape.k),
            balance=[LoadBalanceLoss(0.01), ZLoss(1e-3)],
        ),
        make_shared=lambda _: FeedForward(shape.width, shape.hidden),
    )


def restored(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Cross-entropies and bound on held-out text; pairs per sequence and MaxVio in training."""
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8) if isinstance(text, bytes) else text
    # The same windows for every arm and seed.
    generator = torch.Generator().manual_seed(0)
    batches = [windows(ids, BATCH, LENGTH, generator)[:, :-1] for _ in range(_HELD_OUT_BATCHES)]
    score = score_denoiser(denoiser_of(model), batches, mask_id=mask_id_of(model))
    evaluate(model, text, batches=1, batch=BATCH, length=LENGTH, objective=denoising_loss)
    unserved = [
        float((layer.last.plan.fan_out() == 0).double().mean())
        for layer in routed_layers(model).values()
    ]
    entropies = zip(score.ratios, score.cross_entropy, strict=True)
    return {
        "bound": score.bound,
        **{f"entropy at {ratio}": value for ratio, value in entropies},
        "pairs": float(log.fan_out.mean()) * LENGTH,
        "peak": float(log.max_violation.max()),
        "unserved": sum(unserved) / len(unserved),
    }
