"""Top-k within a few groups of experts (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

The experts stand in G groups of equal size, one a node of a cluster, say. A token first chooses its
G' best groups by the sum of their two largest affinities (bias included), then its k experts among
theirs, so that it never travels to more than G' nodes.

Shape letters: S tokens, E experts, K choices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wye.core import Plan, top_k
from wye.moe.base import MoEError
from wye.moe.parts.selection import Candidates, Selection


class GroupLimitedTopK(Selection):
    """The k experts of largest affinity plus bias within the best groups.

    Args:
        k: experts per token.
        groups: G, a divisor of the number of experts.
        kept: G', groups that a token may use; with kept = groups this is plain top-k.
        best: how many experts of a group make its score.
        check: read the values, to refuse NaN; always off under `torch.compile`.

    Raises:
        MoEError: a number below 1, or kept above groups.
    """

    def __init__(
        self, k: int, *, groups: int = 8, kept: int = 4, best: int = 2, check: bool = True
    ) -> None:
        super().__init__()
        for name, value in (("k", k), ("groups", groups), ("kept", kept), ("best", best)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MoEError(f"{name}={value!r}, expected an integer of at least 1")
        if kept > groups:
            raise MoEError(f"kept={kept} of {groups} groups, expected at most {groups}")
        self.k = self.fan_out = k
        self.groups, self.kept, self.best, self.check = groups, kept, best, check

    def forward(self, candidates: Candidates) -> Plan:
        check = self.check and not torch.compiler.is_compiling()
        allowed = self.allowed(candidates.ranked)
        return top_k(
            candidates.affinity, self.k, bias=candidates.bias, allowed=allowed, check=check
        )

    def allowed(self, ranked_SE: Tensor) -> Tensor | None:
        """`[S, E]` booleans, True for the experts of the kept groups; None where that is all.

        Raises:
            MoEError: groups that do not divide E, or kept groups of fewer than k experts.
        """
        n_experts = ranked_SE.shape[1]
        if n_experts % self.groups or self.kept * (n_experts // self.groups) < self.k:
            raise MoEError(
                f"{n_experts} experts in {self.groups} groups of which {self.kept} are kept, for "
                f"k={self.k}: expected groups of equal size and at least k experts in those kept"
            )
        if self.kept == self.groups:
            return None
        size = n_experts // self.groups
        grouped = ranked_SE.reshape(-1, self.groups, size)
        scores = grouped.topk(min(self.best, size), dim=-1).values.sum(dim=-1)
        chosen = scores.topk(self.kept, dim=-1).indices
        open_groups = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)
        return open_groups.repeat_interleave(size, dim=1)

    def extra_repr(self) -> str:
        return f"k={self.k}, groups={self.groups}, kept={self.kept}"
