"""Sorted pairs through one grouped matrix product per projection.

Shapes depend on S, K and E alone and no value is read, so that the path compiles into one graph.
`torch.nn.functional.grouped_mm` takes int32 offsets, rows of a multiple of 16 bytes, no float64,
no expanded gradients, and leaves rows after the last offset uninitialised; the last offset is N
here, since every pair has an expert.

Shape letters: S tokens, E experts, N routed pairs, D width, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights

_ALIGNMENT = 16


def refusal(x_SD: Tensor, weights: ExpertWeights) -> str | None:
    """Why grouped products cannot run on these tensors, or None where they can."""
    if not hasattr(F, "grouped_mm"):
        return "this PyTorch has no grouped_mm: 2.10 or later is needed"
    if x_SD.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32, bfloat16 and float16, not {x_SD.dtype}"
    if torch.compiler.is_compiling() and x_SD.dtype is not torch.bfloat16:
        return f"under torch.compile it takes bfloat16, not {x_SD.dtype}"
    for name, size in (("width", weights.up.shape[2]), ("hidden width", weights.hidden)):
        if size * x_SD.dtype.itemsize % _ALIGNMENT:
            return f"rows must be a multiple of {_ALIGNMENT} bytes, and the {name} is {size}"
    if x_SD.device.type == "cuda" and torch.cuda.get_device_capability(x_SD.device) < (8, 0):
        return "the device is older than compute capability 8.0"
    return None


class _Contiguous(torch.autograd.Function):
    """Identity whose gradient is contiguous: grouped products refuse an expanded one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in.

    Raises:
        MoEError: grouped products cannot run on these tensors.
    """
    reason = refusal(x_SD, weights)
    if reason is not None:
        raise MoEError(f"method='grouped' cannot run: {reason}; use method='auto'")
    target, order = torch.sort(plan.target, stable=True)
    offsets = plan.load().cumsum(0).to(torch.int32)
    source = plan.source.index_select(0, order)
    h_NP = _linear(x_SD.index_select(0, source), weights.up, weights.up_bias, target, offsets)
    a_NF = weights.activate(h_NP)
    y_ND = _linear(a_NF, weights.down, weights.down_bias, target, offsets)
    dtype = accumulator(x_SD.dtype)
    weight_N1 = plan.weight.index_select(0, order).unsqueeze(1).to(dtype)
    zeros = x_SD.new_zeros(x_SD.shape, dtype=dtype)
    return zeros.index_add(0, source, y_ND.to(dtype) * weight_N1)


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, offsets: Tensor
) -> Tensor:
    y: Tensor = F.grouped_mm(x.contiguous(), weight.transpose(1, 2), offs=offsets)
    if bias is not None:
        y = y + bias.index_select(0, target)
    made: Tensor = _Contiguous.apply(y)  # type: ignore[no-untyped-call]
    return made
