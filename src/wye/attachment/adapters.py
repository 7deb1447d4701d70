"""Where the parts of a model's mixture-of-experts block are, one entry per kind of block.

An entry names the block's class, finds its experts and its gate, says what runs besides the routed
experts, and writes the model's own routing rule in wye's parts with the model's own weights:
    Mixtral       p = softmax(z), k largest, divided by their sum
    OLMoE, Qwen3  p = softmax(z), k largest, divided by their sum where norm_topk_prob
    DeepSeek-V3   s = sigmoid(z), k largest of s + b within the best groups, divided by their sum
                  where norm_topk_prob, times the scaling factor; b is its correction bias
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wye.attachment.errors import AttachError
from wye.moe.base import Router
from wye.moe.parts.balance import LossFreeBias
from wye.moe.parts.gates import Gate
from wye.moe.parts.group_limited import GroupLimitedTopK
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Selection, TopK
from wye.moe.router import ComposedRouter


@dataclass(frozen=True, kw_only=True)
class MoEAdapter:
    """How to read one kind of mixture-of-experts block.

    Attributes:
        block: name of the block's class in transformers.
        own: block -> router with the model's own rule and a copy of its weights.
        experts: name of the child that holds the experts; it runs through transformers' experts
            interface and has `num_experts`.
        gate: name of the child that scores and chooses; it has `weight` `[E, D]` and `top_k`, and
            returns a tuple whose first item are the logits.
        shared: names of children that every token passes; their outputs are added.
        jitter: name of the block's attribute that says how far its input is jittered in training.
    """

    block: str
    own: Callable[[Any], Router]
    experts: str = "experts"
    gate: str = "gate"
    shared: tuple[str, ...] = ()
    jitter: str | None = None


def register(adapter: MoEAdapter) -> MoEAdapter:
    """Make one more kind of block known to `wye.attach`; an entry of the same block is replaced."""
    ADAPTERS[adapter.block] = adapter
    return adapter


def find_blocks(model: nn.Module) -> dict[str, MoEAdapter]:
    """Every known mixture-of-experts block of `model`, by its name.

    Raises:
        AttachError: there is none.
    """
    found = {
        name: ADAPTERS[type(module).__name__]
        for name, module in model.named_modules()
        if type(module).__name__ in ADAPTERS
    }
    if not found:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise AttachError(
            f"a model of type {kind!r} has none of the mixture-of-experts blocks that wye knows "
            f"({', '.join(ADAPTERS)}). For a dense model pass experts=...; for another mixture, "
            "say where its parts are: wye.attachment.register(MoEAdapter(block='NameOfItsBlock', "
            "own=...))"
        )
    return found


def _softmax_router(gate: Any, *, normalise: bool) -> ComposedRouter:
    return _composed(gate, Gate(normalise=normalise), TopK(gate.top_k), ())


def _composed(
    gate: Any, rule: Gate, selection: Selection, balance: tuple[LossFreeBias, ...]
) -> ComposedRouter:
    n_experts, width = gate.weight.shape
    scores = LinearScores(width, n_experts)
    with torch.no_grad():
        scores.weight.copy_(gate.weight)
    return ComposedRouter(width, scores, gate=rule, selection=selection, balance=balance)


def _mixtral(block: Any) -> Router:
    return _softmax_router(block.gate, normalise=True)


def _norm_topk_prob(block: Any) -> Router:
    return _softmax_router(block.gate, normalise=bool(block.gate.norm_topk_prob))


def _deepseek_v3(block: Any) -> Router:
    gate = block.gate
    correction: Tensor = gate.e_score_correction_bias
    # The model's own rule never moves the bias; a rate above 0 would continue its training.
    bias = LossFreeBias(int(correction.shape[0]), rate=0.0)
    bias.bias_E.copy_(correction)
    return _composed(
        gate,
        Gate(
            affinity="sigmoid",
            normalise=bool(gate.norm_topk_prob),
            scale=float(gate.routed_scaling_factor),
        ),
        GroupLimitedTopK(gate.top_k, groups=gate.num_group, kept=gate.topk_group),
        (bias,),
    )


ADAPTERS: dict[str, MoEAdapter] = {}
"""Class name of a block -> its entry."""

register(MoEAdapter(block="MixtralSparseMoeBlock", own=_mixtral, jitter="jitter_noise"))
register(MoEAdapter(block="OlmoeSparseMoeBlock", own=_norm_topk_prob))
register(MoEAdapter(block="Qwen3MoeSparseMoeBlock", own=_norm_topk_prob))
register(MoEAdapter(block="DeepseekV3MoE", own=_deepseek_v3, shared=("shared_experts",)))
