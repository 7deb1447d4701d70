"""The segments path as one operation that `torch.compile` does not look into.

Expert by expert execution reads loads on the host, which no graph can hold; as an operator of its
own (`wye::experts`, with a registered backward and shape rules) it stands in a compiled graph
whole. Compiled layers take it where grouped products cannot be traced: in every dtype but bfloat16.

Shape letters: S tokens, E experts, N routed pairs, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch import segments
from wye.moe.dispatch.activations import activation_of
from wye.moe.dispatch.order import segments_of
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights

_INPUTS = (
    "Tensor x, Tensor weight, Tensor up, Tensor down, Tensor? up_bias, Tensor? down_bias, "
    "Tensor source, Tensor target, str activation, bool gated"
)


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in."""
    y_SD: Tensor = torch.ops.wye.experts(
        x_SD,
        plan.weight,
        weights.up,
        weights.down,
        weights.up_bias,
        weights.down_bias,
        plan.source,
        plan.target,
        weights.activation.name,
        weights.gated,
    )[0]
    return y_SD


def _forward(
    x: Tensor,
    weight: Tensor,
    up: Tensor,
    down: Tensor,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    source: Tensor,
    target: Tensor,
    activation: str,
    gated: bool,
) -> tuple[Tensor, Tensor]:
    weights = ExpertWeights(up, down, up_bias, down_bias, activation_of(activation), gated)
    plan = Plan(source, target, weight, x.shape[0], up.shape[0])
    kept = x.new_empty(source.shape[0], up.shape[1])
    return segments.forward(x, weight, weights, segments_of(plan), kept), kept


def _forward_shapes(
    x: Tensor, weight: Tensor, up: Tensor, down: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    source = others[2]
    y = x.new_empty(x.shape, dtype=accumulator(x.dtype))
    return y, x.new_empty(source.shape[0], up.shape[1])


def _backward(gradient: Tensor, kept: Tensor, *inputs: Any) -> list[Tensor]:
    x, weight, up, down, up_bias, down_bias, source, target, activation, gated = inputs
    weights = ExpertWeights(up, down, up_bias, down_bias, activation_of(activation), gated)
    plan = Plan(source, target, weight, x.shape[0], up.shape[0])
    needs = (True, True, True, True, up_bias is not None, down_bias is not None)
    found = segments.backward(gradient, x, weight, weights, segments_of(plan), kept, needs)
    return [x.new_empty(0) if g is None else g for g in found]


def _backward_shapes(gradient: Tensor, kept: Tensor, *inputs: Any) -> list[Tensor]:
    x = inputs[0]
    return [
        x.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in inputs[:6]
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:8])
    ctx.settings = inputs[8:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if gradient is None:
        return (None,) * 10
    kept, *inputs = ctx.saved_tensors
    found = torch.ops.wye.experts_backward(gradient, kept, *inputs, *ctx.settings)
    there = [g if t is not None else None for g, t in zip(found, inputs[:6], strict=True)]
    return (*there, None, None, None, None)


torch.library.custom_op(
    "wye::experts", _forward, mutates_args=(), schema=f"({_INPUTS}) -> (Tensor, Tensor)"
)
torch.library.register_fake("wye::experts", _forward_shapes)
torch.library.custom_op(
    "wye::experts_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor kept, {_INPUTS}) -> Tensor[]",
)
torch.library.register_fake("wye::experts_backward", _backward_shapes)
torch.library.register_autograd("wye::experts", _differentiate, setup_context=_keep)
