"""Which path takes the least time."""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.dispatch import grouped
from wye.moe.dispatch.weights import ExpertWeights

_FEW_PAIRS = 16


def cheapest(x_SD: Tensor, plan: Plan, weights: ExpertWeights) -> str:
    """The name of the path of least predicted time."""
    compiling = torch.compiler.is_compiling()
    if compiling or x_SD.device.type != "cpu":
        if grouped.refusal(x_SD, weights) is None:
            return "grouped"
        return "dense" if compiling else "segments"
    if len(plan) <= _FEW_PAIRS and not torch.is_grad_enabled():
        return "gathered"
    return "segments"
