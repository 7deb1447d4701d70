"""Gates of 1 that still teach the router: P / stopgrad(P).

For experts whose plain sum is the output, such as slices of a dense network: the value is exact,
and the gradient of an expert's output reaches the logarithm of its affinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wye.core import Plan
from wye.moe.parts.gates import Gate


@dataclass(frozen=True, kw_only=True)
class UnitGate(Gate):
    """Every weight is 1; with `learned`, its gradient is that of the logarithm of the affinity.

    Attributes:
        learned: whether the gate gets a gradient.
    """

    learned: bool = True

    def weigh(self, plan: Plan, affinity: Tensor | None = None, *, k: int | None = None) -> Plan:
        weight = super().weigh(plan, affinity, k=k).weight
        if not self.learned:
            return plan.with_weight(torch.ones_like(weight.detach()))
        weight = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        return plan.with_weight(weight / weight.detach())
