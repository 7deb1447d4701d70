"""Zero-cost experts: targets beside the real ones that cost nothing to run.

    identity   f(x) = x         skip the layer, weighted by the gate
    zero       f(x) = 0         let the token use fewer experts
    constant   f(x) = v         a learned vector
A token whose top k holds some of them computes with fewer real experts. They stand after the real
experts in the router's numbering, identities first, then zeros, then constants.

Source: the foundations' null targets; the three kinds as in MoE++ (arXiv 2410.07348, section 3.1),
whose constant expert also mixes in x, which ours leaves to the identity.

Shape letters: S tokens, E experts, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.experts import BankView, Experts


class WithZeroCost(nn.Module):
    """Real experts and zero-cost ones behind them.

    Attributes:
        n_experts: all of them.
        n_real: those that compute.

    Args:
        experts: those that compute.
        identity, zero, constant: how many of each kind.

    Raises:
        MoEError: a negative number.
    """

    def __init__(
        self, experts: Experts | BankView, *, identity: int = 0, zero: int = 0, constant: int = 0
    ) -> None:
        super().__init__()
        extra = n_zero_cost(identity=identity, zero=zero, constant=constant)
        self.experts = experts
        self.n_real = experts.n_experts
        self.width = experts.width
        self.identity, self.zero, self.constant = identity, zero, constant
        self.n_experts = self.n_real + extra
        self.values = nn.Parameter(torch.zeros(constant, self.width)) if constant else None

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The combined output `[S, D]` of a plan over all experts."""
        if plan.n_targets != self.n_experts:
            raise MoEError(
                f"the plan has {plan.n_targets} targets and there are {self.n_experts} experts, "
                "zero-cost ones included: all must agree"
            )
        real = plan.where(plan.target < self.n_real)
        real = Plan(real.source, real.target, real.weight, plan.n_sources, self.n_real)
        y_SD: Tensor = self.experts(x_SD, real)
        kind = plan.target - self.n_real
        if self.identity:
            gate_S = _gate(plan.where((kind >= 0) & (kind < self.identity)))
            y_SD = y_SD + (gate_S[:, None] * x_SD.float()).to(y_SD.dtype)
        if self.values is not None:
            fixed = plan.where(kind >= self.identity + self.zero)
            index = fixed.target - (self.n_experts - self.constant)
            part = fixed.weight[:, None].float() * self.values.float()[index]
            y_SD = y_SD.float().index_add(0, fixed.source, part).to(y_SD.dtype)
        return y_SD

    def extra_repr(self) -> str:
        return f"identity={self.identity}, zero={self.zero}, constant={self.constant}"


def n_zero_cost(*, identity: int = 0, zero: int = 0, constant: int = 0) -> int:
    """How many zero-cost experts that makes; MoEError for a negative number."""
    given = {"identity": identity, "zero": zero, "constant": constant}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise MoEError(f"{name}={value!r}, expected an integer of at least 0")
    return sum(given.values())


def _gate(plan: Plan) -> Tensor:
    """Total weight of the pairs of every token, float32 `[S]`."""
    weight: Tensor = plan.weight.float()
    return weight.new_zeros(plan.n_sources).index_add(0, plan.source, weight)
