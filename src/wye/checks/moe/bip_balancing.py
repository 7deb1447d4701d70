"""BIP balancing: the load is even from the first step, where other ways take hundreds.

Paper: arXiv 2502.15451. (1) Without training: 4096 softmax rows with a tilt between experts, solved
from prices of zero in 1 to 14 rounds, against plain top-k and 100 sign updates of a loss-free bias.
(2) A byte model of 4 layers (D = 128, 16 experts of width 64, top 4) on Python source, 400 steps of
16 x 128 bytes, against the balance loss and the loss-free bias. AvgMaxVio is the mean over the
steps, SupMaxVio the largest of them, both of the layer where they are largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.corpus import corpus
from wye.checks.moe.experiment import Arm, Results, run_arms
from wye.core import dual_prices, max_violation, retained_score, top_k
from wye.moe.build import Shape

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.moe.learning.training import TrainingLog
    from wye.moe.models.language_model import LanguageModel

SEEDS = 2
TOKENS = 4096
CASES = ((16, 4), (64, 8))
SCALES = (0.5, 1.0)
ROUNDS = (1, 2, 4, 8, 14)
SIGN_STEPS, SIGN_RATE = 100, 1e-3
SHAPE = Shape(n_layers=4, width=128, hidden=64, n_experts=16, k=4)
BYTES, STEPS, BATCH, LENGTH, EARLY = 3_000_000, 400, 16, 128, 50
BIP = "bip, 4 rounds"


def violations(
    log_model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """AvgMaxVio, the same over the first 50 steps, and SupMaxVio."""
    by_step = log.max_violation
    return {
        "avg": float(by_step.mean(axis=0).max()),
        "early": float(by_step[:EARLY].mean(axis=0).max()),
        "sup": float(by_step.max()),
    }


ARMS = {
    BIP: Arm("bip-balancing", {"rounds": 4}, measure=violations),
    "balance loss 0.1": Arm("balance_loss", {"weight": 0.1}, measure=violations),
    "balance loss 0.01": Arm("balance_loss", {"weight": 0.01}, measure=violations),
    "loss-free": Arm("loss_free", {"affinity": "softmax", "rate": 1e-3}, measure=violations),
}


def check(context: CheckContext) -> CheckResult:
    """The solver on fixed scores, then the balance of a model that trains."""
    seeds = context.seeds[:SEEDS]
    context.progress("prices of fixed scores")
    solver = [fixed_scores(m, k, scale, s) for m, k in CASES for scale in SCALES for s in seeds]
    results = run_arms(
        ARMS,
        context,
        text=corpus("python", BYTES),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
    )
    figures = {f"fixed scores, {n}": float(np.mean([r[n] for r in solver])) for n in solver[0]}
    figures |= results.figures("avg", "early", "sup", "loss", "seconds")
    claims = (
        Claim("fixed scores: MaxVio, 14 rounds", max(r["14 rounds"] for r in solver), "<=", 0.12),
        Claim(
            "fixed scores: MaxVio, 4 rounds over plain top-k",
            max(r["4 rounds"] / r["plain"] for r in solver),
            "<=",
            0.2,
        ),
        *trained_claims(results),
    )
    text = (
        f"{TOKENS} fixed rows for 16 and 64 experts; a byte model of 16 experts, top 4, "
        f"{STEPS} steps on Python source; claims hold the worst seed."
    )
    return CheckResult(claims, figures, results.seeds, text)


def fixed_scores(m: int, k: int, scale: float, seed: int) -> dict[str, float]:
    """MaxVio of top-k at each way's prices or bias, and the score that balance keeps."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((TOKENS, m)) + scale * rng.standard_normal(m)
    s: NDArray[np.float64] = np.exp(z - z.max(axis=1, keepdims=True))
    s /= s.sum(axis=1, keepdims=True)
    figures = {"plain": max_violation(top_k(s, k).load())}
    for rounds in ROUNDS:
        plan = top_k(s, k, bias=-dual_prices(s, k, rounds=rounds))
        figures[f"{rounds} rounds"] = max_violation(plan.load())
    figures["retained, 14 rounds"] = retained_score(plan, s)
    bias = np.zeros(m)
    for _ in range(SIGN_STEPS):
        load = top_k(s, k, bias=bias).load()
        bias += SIGN_RATE * np.sign(load.mean() - load)
    figures["100 sign updates"] = max_violation(top_k(s, k, bias=bias).load())
    return figures


def trained_claims(results: Results) -> list[Claim]:
    """The claims on the model that trains, on the worst seed."""
    others = [name for name in results.arms if name != BIP]
    half = max(
        own / min(results.values(name, "early")[i] for name in others)
        for i, own in enumerate(results.values(BIP, "early"))
    )
    sup = max(
        own / free
        for own, free in zip(
            results.values(BIP, "sup"), results.values("loss-free", "sup"), strict=True
        )
    )
    behind = max(
        own - min(results.values(name, "loss")[i] for name in others)
        for i, own in enumerate(results.values(BIP, "loss"))
    )
    return [
        Claim("AvgMaxVio of BIP", results.worst(BIP, "avg"), "<=", 0.5),
        Claim(f"AvgMaxVio over the first {EARLY} steps, BIP over the next best", half, "<=", 0.5),
        Claim("SupMaxVio, BIP over loss-free", sup, "<=", 0.5),
        Claim("validation loss of BIP less the best other", behind, "<=", 0.02),
    ]
