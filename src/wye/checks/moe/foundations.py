"""The foundations: the classic routers in one table, and each against no balancing.

A byte model of 3 layers (D = 64, 8 experts of width 48, top 2) on Python source, 300 steps of 16
windows of 64 bytes. Expert choice and Soft MoE see the future, so they predict masked bytes of the
same text in a bidirectional model, beside a top-k arm that does the same.

MaxVio is the mean over the steps, of the layer where that mean is largest. Without balancing it
must show collapse (above 2 of a possible 3), and every method must stay below it, in every seed.
Each method is also held to what its definition says exactly.

Papers: noisy_top_k arXiv 1701.06538, gshard arXiv 2006.16668, switch and balance_loss arXiv
2101.03961, base arXiv 2103.16716, hash and random arXiv 2106.04426, sinkhorn arXiv 2202.01169,
expert_choice arXiv 2202.09368, soft_moe arXiv 2308.00951, shared_experts arXiv 2401.06066,
loss_free arXiv 2408.15664, deepseek_v3 arXiv 2412.19437.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.corpus import corpus
from wye.checks.moe.experiment import Arm, Measure, Results, run_arms
from wye.core import max_violation, top_k
from wye.moe.base import routed_layers
from wye.moe.learning.masked_objective import VOCABULARY, masked_loss
from wye.moe.learning.training import TrainingLog
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.balance import LossFreeBias
from wye.moe.parts.fixed_selections import HashedSelection
from wye.moe.router import ComposedRouter
from wye.moe.soft_moe import SoftMoE

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

BYTES, STEPS, BATCH, LENGTH, SEEDS = 3_000_000, 300, 16, 64, 2
TOKENS, EXPERTS, K = BATCH * LENGTH, 8, 2
EARLY = 50
COLLAPSE = 2.0
EXACT = 1e-5
DEVIATIONS = 4.0
"""Standard deviations that the loads of random routing may be off: 48 loads, chance 0.003."""

SHOWN = ("loss", "max_violation", "max_violation_early", "drop_share", "seconds")


def early(log: TrainingLog) -> dict[str, float]:
    """MaxVio over the first 50 steps, of the layer where it is largest."""
    if not log.layers:
        return {}
    return {"max_violation_early": float(log.max_violation[:EARLY].mean(axis=0).max())}


def measure_none(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """No balancing: nothing besides the loads."""
    return early(log)


def measure_capacity(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Largest load of a step over the places of an expert: 1.25 k S / E."""
    largest = max(float(load.max()) for load in log.loads.values())
    k = log.load.sum(axis=2).max() > TOKENS
    return {**early(log), "exact": largest / np.ceil(1.25 * (1 + k) * TOKENS / EXPERTS)}


def measure_plain(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Share of pairs of the last evaluation that are not those of plain top-k of the logits."""
    wrong = []
    for layer in routed_layers(model).values():
        plan, logits = layer.last.plan, layer.last.logits
        plain = top_k(logits, len(plan) // plan.n_sources)
        wrong.append(float((plan.dense() > 0).ne(plain.dense().ne(0)).float().mean()))
    return {**early(log), "exact": max(wrong)}


def measure_gates(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """How far the gates of a token are from adding up to the scale of the gate rule."""
    off = []
    for layer in routed_layers(model).values():
        if isinstance(layer.router, ComposedRouter):
            total = layer.last.plan.dense().sum(dim=1)
            off.append(float((total - layer.router.gate.scale).abs().max()))
    return {**early(log), "exact": max(off)}


def measure_bias(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Largest bias over the rate times the steps, which it cannot exceed."""
    biases = [m for m in model.modules() if isinstance(m, LossFreeBias)]
    return {
        **early(log),
        "exact": max(float(b.bias_E.abs().max()) / (b.rate * len(log.loss)) for b in biases),
    }


def measure_balance(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Largest MaxVio of any step and layer, where balance is exact by construction."""
    return {**early(log), "exact": float(log.max_violation.max())}


def measure_fan_out(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """How far the routed experts of a token are from k m - K_s = 3 of 15."""
    off = float(np.abs(log.fan_out - 3).max())
    return {**early(log), "exact": off + abs(log.load.shape[2] - 15)}


def measure_hash(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Pairs that are not where the table says, and the table's own MaxVio on the held-out text."""
    ids = torch.frombuffer(bytearray(bytes(text)[: TOKENS * 8]), dtype=torch.uint8).long()
    with torch.no_grad():
        model(ids.view(-1, LENGTH))
    off, own = 0.0, 0.0
    for layer in routed_layers(model).values():
        rule = layer.router.selection
        if not isinstance(rule, HashedSelection):
            continue
        load = torch.bincount(rule.table_V[ids], minlength=EXPERTS)
        off = max(off, float((load - layer.last.plan.load()).abs().max()))
        own = max(own, max_violation(load))
    return {**early(log), "exact": off, "table_max_violation": own}


def measure_random(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """Largest deviation of a load over all steps from S k / E, in standard deviations."""
    tokens = TOKENS * len(log.loss)
    share = K / EXPERTS
    deviation = np.abs(log.load.sum(axis=0) - tokens * share).max()
    return {**early(log), "exact": float(deviation / np.sqrt(tokens * share * (1 - share)))}


def measure_soft(
    model: LanguageModel, log: TrainingLog, text: bytes | Tensor, seed: int
) -> Mapping[str, float]:
    """How far columns of dispatch and rows of combine are from adding up to 1."""
    off = 0.0
    x = torch.randn(4, LENGTH, model.width, generator=torch.Generator().manual_seed(seed))
    for layer in model.modules():
        if isinstance(layer, SoftMoE):
            with torch.no_grad():
                dispatch, combine = layer.weights(x)
            off = max(off, float((dispatch.sum(dim=1) - 1).abs().max()))
            off = max(off, float((combine.sum(dim=2) - 1).abs().max()))
    return {"exact": off}


def _masked(system: str, measure: Measure, **options: int) -> Arm:
    return Arm(
        system,
        options,
        measure=measure,
        objective=masked_loss,
        vocabulary=VOCABULARY,
        causal=False,
    )


ARMS: dict[str, Arm] = {
    "none": Arm("top_k", measure=measure_none),
    "noisy_top_k": Arm("noisy_top_k", measure=measure_plain),
    "switch": Arm("switch", measure=measure_capacity),
    "gshard": Arm("gshard", measure=measure_capacity),
    "balance_loss": Arm("balance_loss", measure=measure_gates),
    "loss_free": Arm("loss_free", {"affinity": "softmax"}, measure=measure_bias),
    "sinkhorn": Arm("sinkhorn", measure=measure_plain),
    "base": Arm("base", measure=measure_balance),
    "bip": Arm("bip-balancing", measure=measure_gates),
    "hash": Arm("hash", measure=measure_hash),
    "random": Arm("random", measure=measure_random),
    "shared_experts": Arm("shared_experts", measure=measure_fan_out),
    "deepseek_v3": Arm("deepseek_v3", {"groups": 4}, measure=measure_gates),
}
MASKED: dict[str, Arm] = {
    "none, masked": _masked("top_k", measure_none),
    "expert_choice": _masked("expert_choice", measure_balance),
    "soft_moe": _masked("soft_moe", measure_soft, slots=LENGTH * K // EXPERTS),
}
_EXACT: dict[str, tuple[str, float]] = {
    "noisy_top_k": ("pairs of evaluation off plain top-k", 0.0),
    "switch": ("largest load over capacity", 1.0),
    "gshard": ("largest load over capacity", 1.0),
    "balance_loss": ("gates' sum off 1", EXACT),
    "loss_free": ("largest bias over rate x steps", 1.0 + EXACT),
    "sinkhorn": ("pairs of evaluation off plain top-k", 0.0),
    "base": ("largest MaxVio of any step", EXACT),
    "bip": ("gates' sum off 1", EXACT),
    "hash": ("pairs off the table", 0.0),
    "random": ("standard deviations off an equal load", DEVIATIONS),
    "shared_experts": ("experts off 3 of 15", EXACT),
    "deepseek_v3": ("gates' sum off 2.5", EXACT),
    "expert_choice": ("largest MaxVio of any step", EXACT),
    "soft_moe": ("sums of dispatch and combine off 1", EXACT),
}


def check(context: CheckContext) -> CheckResult:
    """The whole table: collapse without balancing, and every method below it."""
    return _result(context, {**ARMS, **MASKED}, whole=True)


def check_one(context: CheckContext, name: str) -> CheckResult:
    """One method against no balancing at the same objective, and its exact property."""
    none = "none, masked" if name in MASKED else "none"
    every = {**ARMS, **MASKED}
    return _result(context, {none: every[none], name: every[name]}, whole=False)


def _result(context: CheckContext, arms: Mapping[str, Arm], *, whole: bool) -> CheckResult:
    results = run_arms(
        arms,
        context,
        text=corpus("python", BYTES),
        seeds=context.seeds[:SEEDS],
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
    )
    claims = []
    if whole:
        claims.append(
            Claim("MaxVio without balancing", results.best("none", "max_violation"), ">=", COLLAPSE)
        )
    for name in arms:
        if not name.startswith("none"):
            claims += _claims(results, name, "none, masked" if name in MASKED else "none")
    figures = {
        f"{name} {figure}": results.mean(name, figure)
        for name in arms
        for figure in (*SHOWN, "exact")
        if figure in results.of(name)[0].figures
    }
    text = (
        f"Byte models on {BYTES / 1e6:.0f} MB of Python source, {STEPS} steps of {BATCH} x "
        f"{LENGTH} bytes; claims hold the worst seed, MaxVio is that of the worst layer, early is "
        f"its mean over {EARLY} steps."
    )
    return CheckResult(tuple(claims), figures, results.seeds, text)


def _claims(results: Results, name: str, none: str) -> list[Claim]:
    what, threshold = _EXACT[name]
    exact = Claim(f"{name}: {what}", results.worst(name, "exact"), "<=", threshold)
    if "max_violation" not in results.of(name)[0].figures:
        return [exact]
    pairs = zip(
        results.values(name, "max_violation"), results.values(none, "max_violation"), strict=True
    )
    below = min(theirs - own for own, theirs in pairs)
    return [Claim(f"MaxVio of {none} less that of {name}", below, ">=", 0.0), exact]


def check_switch(context: CheckContext) -> CheckResult:
    """Switch."""
    return check_one(context, "switch")


def check_gshard(context: CheckContext) -> CheckResult:
    """GShard."""
    return check_one(context, "gshard")


def check_noisy_top_k(context: CheckContext) -> CheckResult:
    """Noisy top-k."""
    return check_one(context, "noisy_top_k")


def check_expert_choice(context: CheckContext) -> CheckResult:
    """Expert choice, on masked prediction."""
    return check_one(context, "expert_choice")


def check_base(context: CheckContext) -> CheckResult:
    """BASE layers."""
    return check_one(context, "base")


def check_sinkhorn(context: CheckContext) -> CheckResult:
    """S-BASE."""
    return check_one(context, "sinkhorn")


def check_hash(context: CheckContext) -> CheckResult:
    """Hash layers."""
    return check_one(context, "hash")


def check_random(context: CheckContext) -> CheckResult:
    """Random routing."""
    return check_one(context, "random")


def check_soft_moe(context: CheckContext) -> CheckResult:
    """Soft MoE, on masked prediction."""
    return check_one(context, "soft_moe")


def check_loss_free(context: CheckContext) -> CheckResult:
    """Loss-free balancing."""
    return check_one(context, "loss_free")


def check_deepseek_v3(context: CheckContext) -> CheckResult:
    """DeepSeek-V3."""
    return check_one(context, "deepseek_v3")


def check_shared_experts(context: CheckContext) -> CheckResult:
    """Shared and fine-grained experts."""
    return check_one(context, "shared_experts")


def check_balance_loss(context: CheckContext) -> CheckResult:
    """Top-k with the load-balance loss."""
    return check_one(context, "balance_loss")
