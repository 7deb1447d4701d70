"""A mixture-of-experts layer for training from scratch: router, experts, shared part.

    y_t = shared(x_t) + sum_{i in S_t} g_ti f_i(x_t)

Shape letters: S tokens, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import Context, MoEError, RoutedModule, Router, Routing

RunsPlans = Callable[[Tensor, Plan], Tensor]


class MoELayer(RoutedModule):
    """Routed experts, with an optional dense part that every token passes.

    Args:
        router: sends tokens to E experts.
        experts: module `(x_SD, plan) -> y_SD` with an attribute `n_experts`; `wye.moe.Experts`, or
            a view of an `ExpertBank`.
        shared: module `[S, D] -> [S, D]` added for every token (shared experts, residual FFN).
        gate_shared: weigh the shared part of each token by a learned sigmoid (Qwen2-MoE).
        carries_losses: as in `RoutedModule`.

    Raises:
        MoEError: router and experts of different numbers.
    """

    def __init__(
        self,
        router: Router,
        experts: nn.Module,
        *,
        shared: nn.Module | None = None,
        gate_shared: bool = False,
        carries_losses: bool = True,
    ) -> None:
        super().__init__(router, carries_losses=carries_losses)
        n = getattr(experts, "n_experts", None)
        if n != router.n_experts:
            raise MoEError(
                f"the router chooses among {router.n_experts} experts and {n} are there: build "
                "both with the same n_experts"
            )
        self.experts = experts
        self.shared = shared
        self.shared_gate = nn.Linear(router.width, 1, bias=False) if gate_shared else None

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        y_SD: Tensor = self.experts(x_SD, routing.plan)
        if self.shared is None:
            return y_SD
        dense: Tensor = self.shared(x_SD)
        if self.shared_gate is not None:
            dense = torch.sigmoid(self.shared_gate(x_SD)) * dense
        return y_SD + dense
