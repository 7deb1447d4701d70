"""A few tokens: read the chosen experts' weights, one pair after another, and nothing else.

With one or a few tokens the time is that of reading weights from memory; sorting, gathering and
scattering would only add to it. Under autograd or compilation the chosen weights are gathered
`[N, P, D]` and multiplied in one batch.

Shape letters: S tokens, N routed pairs, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in."""
    differentiated = torch.is_grad_enabled() and any(
        t.requires_grad for t in (x_SD, plan.weight, *weights.tensors())
    )
    if differentiated or torch.compiler.is_compiling():
        return _batched(x_SD, plan, weights)
    return _one_by_one(x_SD, plan, weights)


def _one_by_one(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    y_SD = x_SD.new_zeros(x_SD.shape, dtype=accumulator(x_SD.dtype))
    same_dtype = y_SD.dtype == x_SD.dtype
    pairs = zip(plan.source.tolist(), plan.target.tolist(), plan.weight.tolist(), strict=True)
    for s, e, w in pairs:
        x = x_SD[s]
        bias = weights.up_bias
        h = torch.mv(weights.up[e], x) if bias is None else torch.addmv(bias[e], weights.up[e], x)
        a = weights.activate(h)
        if same_dtype:
            y_SD[s].addmv_(weights.down[e], a, alpha=w)
        else:
            y_SD[s].add_(torch.mv(weights.down[e], a), alpha=w)
        if weights.down_bias is not None:
            y_SD[s].add_(weights.down_bias[e], alpha=w)
    return y_SD


def _batched(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    dtype = accumulator(x_SD.dtype)
    x_ND1 = x_SD.index_select(0, plan.source).unsqueeze(2)
    h_NP = torch.bmm(weights.up.index_select(0, plan.target), x_ND1).squeeze(2)
    if weights.up_bias is not None:
        h_NP = h_NP + weights.up_bias.index_select(0, plan.target)
    a_NF1 = weights.activate(h_NP).unsqueeze(2)
    y_ND = torch.bmm(weights.down.index_select(0, plan.target), a_NF1).squeeze(2)
    if weights.down_bias is not None:
        y_ND = y_ND + weights.down_bias.index_select(0, plan.target)
    zeros = x_SD.new_zeros(x_SD.shape, dtype=dtype)
    return zeros.index_add(0, plan.source, y_ND.to(dtype) * plan.weight.unsqueeze(1).to(dtype))
