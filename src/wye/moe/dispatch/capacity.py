"""Padded groups `[E, C, D]` and one batched matrix product per projection.

The shape of GShard (arXiv 2006.16668, section 2.2) without its one-hot matrices: a pair knows the
expert and the place it takes there. Every group has C rows, so work grows with the fullest expert;
with a capacity of its own, pairs that find no place are dropped (weight 0).

Shape letters: S tokens, E experts, N routed pairs, C places per expert, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan, places
from wye.moe.base import MoEError
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights, *, capacity: int | None = None) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in.

    Args:
        x_SD: `[S, D]`.
        plan: N pairs.
        weights: of E experts.
        capacity: C, at least 0; the largest load when not given, which drops nothing and reads
            the loads. Later pairs of a full expert are dropped: order or cap the plan first to
            drop by anything but position.

    Raises:
        MoEError: a negative capacity.
    """
    dtype = accumulator(x_SD.dtype)
    if capacity is None:
        capacity = int(plan.load().max()) if len(plan) and plan.n_targets else 0
    if capacity < 0:
        raise MoEError(f"capacity={capacity}, expected at least 0")
    if capacity == 0 or len(plan) == 0:
        return _nothing(x_SD, plan, weights, dtype)
    place = places(plan)
    kept = place < capacity
    n_rows = plan.n_targets * capacity
    # One row after the last takes all pairs without a place.
    row = torch.where(kept, plan.target * capacity + place, n_rows)
    token = plan.source.new_zeros(n_rows + 1).index_copy(0, row, plan.source)[:n_rows]
    padded = x_SD.index_select(0, token).view(plan.n_targets, capacity, x_SD.shape[1])
    h_ECP = torch.bmm(padded, weights.up.transpose(1, 2))
    if weights.up_bias is not None:
        h_ECP = h_ECP + weights.up_bias.unsqueeze(1)
    y_ECD = torch.bmm(weights.activate(h_ECP), weights.down.transpose(1, 2))
    if weights.down_bias is not None:
        y_ECD = y_ECD + weights.down_bias.unsqueeze(1)
    y_ND = y_ECD.flatten(0, 1).index_select(0, torch.where(kept, row, 0))
    weight_N = torch.where(kept, plan.weight, torch.zeros_like(plan.weight))
    zeros = x_SD.new_zeros(x_SD.shape, dtype=dtype)
    return zeros.index_add(0, plan.source, y_ND.to(dtype) * weight_N.unsqueeze(1).to(dtype))


def _nothing(x_SD: Tensor, plan: Plan, weights: ExpertWeights, dtype: torch.dtype) -> Tensor:
    """Zeros that keep every input in the graph, with gradients of zero."""
    y_SD = x_SD.to(dtype) * 0.0
    for tensor in (plan.weight, *weights.tensors()):
        if tensor.requires_grad:
            y_SD = y_SD + (tensor.sum() * 0.0).to(dtype)
    return y_SD
