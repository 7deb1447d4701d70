"""Experts of different sizes, down to one that does nothing.

Shape letters: S tokens, E experts, D width, F hidden width, N routed pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.experts import FeedForward


class UnequalExperts(nn.Module):
    """E feed-forward networks, each with its own hidden width; width 0 skips.

    Every network runs on its own tokens alone, so that a skipped or small one saves its time.

    Args:
        width: D.
        hidden: `[E]` F of every expert; 0 adds nothing to its tokens.
        activation, gated: as in `Experts`.

    Raises:
        MoEError: no experts, or a negative width.

    Example:
        >>> from wye.core import top_k
        >>> experts = UnequalExperts(4, [16, 2, 0])
        >>> experts(torch.ones(3, 4), top_k(torch.eye(3), 1))[2].tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self, width: int, hidden: Sequence[int], *, activation: str = "silu", gated: bool = True
    ) -> None:
        super().__init__()
        if not hidden or any(f < 0 for f in hidden):
            raise MoEError(f"hidden={list(hidden)}, expected at least one width, each >= 0")
        self.n_experts, self.width, self.hidden = len(hidden), width, tuple(hidden)
        self.networks = nn.ModuleList(
            FeedForward(width, f, activation=activation, gated=gated) if f else nn.Identity()
            for f in hidden
        )

    def forward(self, x_SD: Tensor, plan: Plan) -> Tensor:
        """The combined output `[S, D]` of the pairs of `plan`.

        Raises:
            MoEError: a plan of other sizes.
        """
        if plan.n_targets != self.n_experts or plan.n_sources != x_SD.shape[0]:
            raise MoEError(
                f"{plan} for {x_SD.shape[0]} tokens and {self.n_experts} experts: all must agree"
            )
        y_SD = torch.zeros(x_SD.shape, dtype=torch.float32, device=x_SD.device)
        order, offsets = plan.by_target()
        bounds = offsets.tolist()
        for expert, (network, f) in enumerate(zip(self.networks, self.hidden, strict=True)):
            pairs = order[bounds[expert] : bounds[expert + 1]]
            if f == 0:
                continue
            source = plan.source[pairs]
            # Without tokens too: distributed reducers wait for a gradient, if of zero.
            out = network(x_SD[source]).float() * plan.weight[pairs, None]
            y_SD = y_SD.index_add(0, source, out)
        return y_SD.to(x_SD.dtype)

    def extra_repr(self) -> str:
        return f"width={self.width}, hidden={self.hidden}"
