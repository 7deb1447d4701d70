"""Low-rank changes of the linear layers of a frozen model, to compare others with.

y = W x + B A x,   A [r, in], B [out, r] = 0 at first      (LoRA, arXiv 2106.09685, equation 3)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """A linear layer and its change of rank r."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        y: Tensor = self.base(x) + (x @ self.down.T) @ self.up.T
        return y


def add_low_rank(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Wrap every linear layer of `model` in place; what can be learned of the changes."""
    linear = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    learned: list[nn.Parameter] = []
    for parent, name, child in linear:
        wrapped = LowRank(child, rank)
        setattr(parent, name, wrapped)
        learned += [wrapped.down, wrapped.up]
    return learned


def low_rank_size(model: nn.Module) -> int:
    """Parameters that each rank adds to the linear layers of `model`."""
    return sum(m.in_features + m.out_features for m in model.modules() if isinstance(m, nn.Linear))
