"""Sparse upcycling: a dense model whose layer becomes experts computes what it computed.

Paper: arXiv 2212.05055. One layer of SmolLM2-135M (the middle one, 15 of 30) is upcycled to 4
experts, top-2 with gates that sum to 1; the logits on held-out English text must be those of the
dense model at step 0. Besides, as figures: raw gates, which sum to less than 1 and show what the
normalisation is for; drop-upcycling, which changes the model on purpose; slices of 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wye.checks.base import CheckContext, CheckResult, Claim
from wye.checks.moe.corpus import english
from wye.checks.moe.smollm import load_smollm, tokens_of

LAYER, EXPERTS, K = 15, 4, 2
BATCH, LENGTH = 4, 64
LIMIT = 1e-4


def check(context: CheckContext) -> CheckResult:
    """Largest absolute difference of logits between the upcycled and the dense model."""
    seeds = context.seeds[:2]
    context.progress("loading SmolLM2-135M")
    model = load_smollm()
    text = english(20_000, part="held_out").decode("utf-8", errors="ignore")
    ids_BL = tokens_of(text, BATCH * LENGTH).reshape(BATCH, LENGTH)
    with torch.no_grad():
        dense: Tensor = model(ids_BL).logits
        ways: dict[str, dict[str, Any]] = {
            "copies": {},
            "slices of 2": {"slices": 2},
            "raw gates": {"normalise": False},
            "half drawn anew": {"reinitialise": 0.5},
        }
        difference = {
            name: max(_difference(model, ids_BL, dense, seed, options) for seed in seeds)
            for name, options in ways.items()
        }
        back = float((model(ids_BL).logits - dense).abs().max())
    figures = {f"largest difference, {name}": value for name, value in difference.items()}
    figures["largest logit"] = float(dense.abs().max())
    return CheckResult(
        claims=(
            Claim("largest difference at step 0", difference["copies"], "<=", LIMIT),
            Claim("largest difference after detaching", back, "<=", 0.0),
        ),
        figures=figures,
        seeds=seeds,
        text=(
            f"Layer {LAYER} of SmolLM2-135M as {EXPERTS} experts, top-{K} with gates that sum to "
            f"1, against the dense model on {BATCH * LENGTH} held-out tokens of English; the "
            "larger of the seeds of the router."
        ),
    )


def _difference(
    model: Any, ids_BL: Tensor, dense: Tensor, seed: int, options: dict[str, Any]
) -> float:
    from wye.attachment import attach, detach

    attach(model, "top_k", experts=EXPERTS, k=K, layers=[LAYER], seed=seed, **options)
    try:
        return float((model(ids_BL).logits - dense).abs().max())
    finally:
        detach(model)
