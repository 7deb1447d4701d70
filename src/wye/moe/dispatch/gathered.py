"""A few tokens: read the chosen experts' weights where they lie, and do little else.

With few tokens the time is that of reading weights from memory and of calling operations. So the
loop over experts holds the two matrix products alone; activation, weighting and combination run
once for all pairs, and one token needs no sort and no index at all. Products with few rows run on
one thread, which cannot read at the speed of the memory: each is cut into one batch item per
thread along the rows of the weight, which costs no copy. Under autograd or compilation the chosen
weights are gathered `[N, P, D]` and multiplied in one batch.

Shape letters: S tokens, N routed pairs, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch.order import segments_of
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in."""
    differentiated = torch.is_grad_enabled() and any(
        t.requires_grad for t in (x_SD, plan.weight, *weights.tensors())
    )
    if differentiated or torch.compiler.is_compiling():
        return _batched(x_SD, plan, weights)
    if not len(plan):
        return x_SD.new_zeros(x_SD.shape, dtype=accumulator(x_SD.dtype))
    if x_SD.shape[0] == 1:
        return _one_token(x_SD, plan, weights)
    return _few_tokens(x_SD, plan, weights)


def _one_token(x_1D: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    experts = plan.target.tolist()
    parts = _parts(weights)
    ups = [weights.up[expert] for expert in experts]
    h_NP = torch.cat([_product(x_1D, up, parts) for up in ups])
    if weights.up_bias is not None:
        h_NP += weights.up_bias.index_select(0, plan.target)
    a_NF = weights.activate_(h_NP).mul_(plan.weight.unsqueeze(1))
    downs = [weights.down[expert] for expert in experts]
    rows = zip(a_NF.unsqueeze(1).unbind(0), downs, strict=True)
    y_ND = torch.cat([_product(a_1F, down, parts) for a_1F, down in rows])
    if weights.down_bias is not None:
        y_ND += weights.down_bias.index_select(0, plan.target) * plan.weight.unsqueeze(1)
    return y_ND.sum(0, keepdim=True, dtype=accumulator(x_1D.dtype))


def _few_tokens(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    segments = segments_of(plan)
    sizes = [stop - start for _, start, stop in segments.spans]
    experts = [expert for expert, _, _ in segments.spans]
    parts = _parts(weights)
    x_ND = x_SD.index_select(0, segments.source)
    rows = zip(x_ND.split_with_sizes(sizes), experts, strict=True)
    h_NP = torch.cat([_product(x, weights.up[expert], parts) for x, expert in rows])
    target = plan.target.index_select(0, segments.order)
    if weights.up_bias is not None:
        h_NP += weights.up_bias.index_select(0, target)
    rows = zip(weights.activate_(h_NP).split_with_sizes(sizes), experts, strict=True)
    y_ND = torch.cat([_product(a, weights.down[expert], parts) for a, expert in rows])
    if weights.down_bias is not None:
        y_ND += weights.down_bias.index_select(0, target)
    y_SD = x_SD.new_zeros(x_SD.shape, dtype=accumulator(x_SD.dtype))
    weight_N1 = plan.weight.index_select(0, segments.order).unsqueeze(1).to(y_SD.dtype)
    return y_SD.index_add_(0, segments.source, y_ND.to(y_SD.dtype).mul_(weight_N1))


def _parts(weights: ExpertWeights) -> int:
    """Into how many batch items a product is cut: one per thread where the rows divide."""
    threads = torch.get_num_threads() if weights.up.device.type == "cpu" else 1
    whole = weights.up.is_contiguous() and weights.down.is_contiguous()
    rows = (weights.up.shape[1], weights.down.shape[1])
    return threads if whole and all(n % threads == 0 for n in rows) else 1


def _product(x: Tensor, weight: Tensor, parts: int) -> Tensor:
    """`x @ weight.T` of `[n, in]` and `[out, in]`."""
    if parts == 1:
        return torch.mm(x, weight.t())
    n, (rows, width) = x.shape[0], weight.shape
    cut = weight.view(parts, rows // parts, width).transpose(1, 2)
    y = torch.bmm(x.expand(parts, n, width), cut)
    return y.view(1, rows) if n == 1 else y.transpose(0, 1).reshape(n, rows)


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
