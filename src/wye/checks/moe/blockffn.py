"""BlockFFN: its two losses make chunks sparse, more than equal token sparsity would.

Paper: arXiv 2507.08771. A byte language model on Python source (4 layers, D 96, 32 experts of
width 16, length 128, batch 16, 300 steps) with neither loss, with locality, with the chunk loss
(chunks of 16, weight 0.1 after warm-up, adapted as published), with both; and top-k of a softmax at
the number of experts that "both" ends with. That control is what makes the claim one about chunks:
any router that uses fewer experts has sparser chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.held_out import held_out_tokens
from wye.moe.build import Shape
from wye.moe.diagnostics.sparsity import chunk_sparsity, token_sparsity
from wye.moe.learning.training import TrainingLog
from wye.moe.models.language_model import LanguageModel

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.moe.experiment import Arm, Results

SHAPE = Shape(n_layers=4, width=96, hidden=16, n_experts=32, k=1)
STEPS, BATCH, LENGTH = 300, 16, 128
CHUNK, LOCALITY, SPARSITY = 16, 2e-3, 0.1
GAIN = 0.1
LOSS_SLACK = 0.05
ALIVE = 0.5
NEITHER, BOTH, CONTROL = "neither loss", "both", "top-k"


def check(context: CheckContext) -> CheckResult:
    """Chunk sparsity of both losses against neither, and against top-k at equal token sparsity."""
    seeds = context.seeds[:2]
    arms = {
        NEITHER: _arm(0.0, 0.0),
        "locality": _arm(LOCALITY, 0.0),
        "chunk": _arm(0.0, SPARSITY),
        BOTH: _arm(LOCALITY, SPARSITY),
    }
    ours = _run(arms, context, seeds)
    control = {seed: _control(ours, context, seed) for seed in seeds}

    def least(figure: str, other: str) -> float:
        mine = dict(zip(seeds, ours.values(BOTH, figure), strict=True))
        if other == CONTROL:
            return min(mine[s] - control[s].values(CONTROL, figure)[0] for s in seeds)
        rest = dict(zip(seeds, ours.values(other, figure), strict=True))
        return min(mine[s] - rest[s] for s in seeds)

    losses = zip(seeds, ours.values(BOTH, "loss"), strict=True)
    worst = max(loss - control[s].values(CONTROL, "loss")[0] for s, loss in losses)
    claims = (
        Claim("CLS_8 of both - neither, least seed", least("CLS_8", NEITHER), ">=", GAIN),
        Claim("CLS_8 of both - top-k, least seed", least("CLS_8", CONTROL), ">=", GAIN),
        Claim("loss of both - top-k, largest seed", worst, "<=", LOSS_SLACK),
        Claim(
            "share of experts alive in the poorest layer, least seed",
            ours.best(BOTH, "share alive"),
            ">=",
            ALIVE,
        ),
    )
    names = ("loss", "TLS", "CLS_8", "CLS_16", "share alive", "identity")
    figures = ours.figures(*names)
    for name in names:
        found = [control[s].values(CONTROL, name)[0] for s in seeds]
        figures[f"{CONTROL} {name}"] = float(np.mean(found))
    figures[f"{CONTROL} k"] = float(np.mean([_k(ours, s) for s in seeds]))
    text = (
        f"Byte language models on Python source, {STEPS} steps; CLS over windows of 8 and 16 "
        "held-out tokens, means over layers. An expert is alive if any held-out token uses it; "
        "identity is I(token id; expert) in nats."
    )
    return CheckResult(claims, figures, seeds, text)


def measure(
    model: LanguageModel, log: TrainingLog, held_out: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Sparsity, experts alive, and how far the token alone decides the expert."""
    batches = list(held_out_tokens(model, held_out, batches=4))

    def mean(of: str, length: int) -> float:
        found = [
            token_sparsity(t.plans[name])
            if of == "TLS"
            else chunk_sparsity(t.plans[name], t.context, length)
            for t in batches
            for name in log.layers
        ]
        return float(np.mean(found))

    alive, identity = [], []
    for name in log.layers:
        counts = np.zeros((model.vocabulary, SHAPE.n_experts))
        for tokens in batches:
            plan = tokens.plans[name]
            np.add.at(counts, (tokens.ids[plan.source].numpy(), plan.target.numpy()), 1.0)
        alive.append(float((counts.sum(axis=0) > 0).mean()))
        identity.append(_mutual_information(counts))
    return {
        "TLS": mean("TLS", 1),
        "CLS_8": mean("CLS", 8),
        "CLS_16": mean("CLS", 16),
        "share alive": min(alive),
        "identity": float(np.mean(identity)),
    }


def _arm(locality: float, sparsity: float) -> Arm:
    from wye.checks.moe.experiment import Arm

    options = {"locality": locality, "sparsity": sparsity, "chunk": CHUNK, "steps": STEPS}
    return Arm("blockffn", options=options, measure=measure)


def _control(ours: Results, context: CheckContext, seed: int) -> Results:
    """Top-k at the number of active experts of "both" of the same seed."""
    from wye.checks.moe.experiment import Arm

    shape = replace(SHAPE, k=_k(ours, seed))
    arm = Arm("top_k", options={"gated": False}, measure=measure, shape=shape)
    return _run({CONTROL: arm}, context, (seed,))


def _k(ours: Results, seed: int) -> int:
    sparsity = ours.trials[BOTH, seed].figures["TLS"]
    return max(1, round((1 - sparsity) * SHAPE.n_experts))


def _run(arms: Mapping[str, Arm], context: CheckContext, seeds: tuple[int, ...]) -> Results:
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import run_arms

    return run_arms(
        arms,
        context,
        text=corpus("python", 3_000_000),
        seeds=seeds,
        shape=SHAPE,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
    )


def _mutual_information(counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Of the rows and columns of a table of counts, in nats."""
    joint = counts / max(counts.sum(), 1.0)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())
