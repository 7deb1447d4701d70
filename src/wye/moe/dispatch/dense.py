"""Every expert on every token, weighted by the dense matrix of the plan: the oracle.

    y = sum_e W[:, e] f_e(x),    W = plan.dense()

Work grows with S E, so it serves tests and the smallest shapes, where nothing beats few large
operations.

Shape letters: S tokens, E experts, D width, P rows of `up`, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch.precision import accumulator
from wye.moe.dispatch.weights import ExpertWeights


def run(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> Tensor:
    """The combined output `[S, D]`, in the dtype that sums are kept in."""
    h_ESP = torch.einsum("sd,epd->esp", x_SD, weights.up)
    if weights.up_bias is not None:
        h_ESP = h_ESP + weights.up_bias[:, None, :]
    y_ESD = torch.einsum("esf,edf->esd", weights.activate(h_ESP), weights.down)
    if weights.down_bias is not None:
        y_ESD = y_ESD + weights.down_bias[:, None, :]
    dtype = accumulator(x_SD.dtype)
    return torch.einsum("se,esd->sd", plan.dense().to(dtype), y_ESD.to(dtype))
