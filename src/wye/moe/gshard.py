"""GShard: top two experts, the second at random in proportion to its gate.

Token -> its best expert and, with probability min(1, g_2 / threshold), its second best, when the
token passes the layer, from its hidden state alone; full experts take no more of the batch.
Papers: GShard, arXiv 2006.16668, algorithm 1; the other threshold from ST-MoE, arXiv 2202.08906.

    p = softmax(x W_r^T),  first and second its two largest entries
    g_1, g_2 = p_first, p_second over their sum          before anything is dropped
    the second stays with probability min(1, g_2 / threshold): 0.5 in GShard (which writes 2 g_2),
    0.2 in ST-MoE, always at 0
    C = max(4, ceil(2 capacity S / E)); all first choices before all second ones, by position
    loss = weight * E sum_i phi_i P_i, phi_i the share of first choices

What is dropped gives its gate to nobody, and a second choice that stays away takes no place. In
evaluation the second expert always stays.
Ours: no capacity in evaluation by default, so that a token never depends on its batch mates.

Shape letters: S tokens, E experts, N routed pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wye.core import Plan, capped, load_balance, shared, top_k, weigh
from wye.moe.base import MoEError, Routing
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import Balance, Routed
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Candidates, Selection
from wye.moe.router import ComposedRouter
from wye.moe.switch import CAPPED_IN_EVALUATION


class SecondChoice(Selection):
    """The best expert, and the second best at random, as far as there are places.

    Args:
        threshold: the second stays with probability min(1, g_2 / threshold); 0 for always.
        capacity: factor in training; None for no limit.
        eval_capacity: factor in evaluation; None for no limit.
        minimum: least capacity.

    Raises:
        MoEError: a negative number.
    """

    weighs = True

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        capacity: float | None = 1.25,
        eval_capacity: float | None = None,
        minimum: int = 4,
    ) -> None:
        super().__init__()
        given = {"threshold": threshold, "capacity": capacity, "eval_capacity": eval_capacity}
        for name, value in given.items():
            if value is not None and not value >= 0:
                raise MoEError(f"{name}={value}, expected a number >= 0")
        self.threshold, self.minimum = threshold, minimum
        self.capacity, self.eval_capacity = capacity, eval_capacity

    def forward(self, candidates: Candidates) -> Plan:
        plan = shared(top_k(candidates.affinity, 2, bias=candidates.bias))
        rank = torch.arange(len(plan), device=plan.source.device) % 2
        if self.training and self.threshold > 0:
            stays = self.stays(plan.weight.detach()) | (rank == 0)
            plan, rank = plan.where(stays), rank[stays]
        factor = self.capacity if self.training else self.eval_capacity
        if factor is None:
            return plan
        limit = self.places(plan.n_sources, plan.n_targets, factor)
        return capped(plan, limit, priority=-rank.to(torch.float32))

    def stays(self, gate: Tensor) -> Tensor:
        """Booleans: whether a second choice with this gate stays; draws globally."""
        return torch.rand_like(gate) * self.threshold < gate

    def places(self, n_tokens: int, n_experts: int, factor: float) -> int:
        """C of `n_tokens`."""
        return max(self.minimum, math.ceil(2 * factor * n_tokens / n_experts - 1e-9))

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, capacity={self.capacity}"


class FirstChoiceLoss(Balance):
    """weight * E sum_i phi_i P_i with phi_i the share of tokens whose best expert is i."""

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        p = routed.probabilities
        if p.shape[0] == 0:
            return {}
        return {"balance": self.weight * load_balance(p, top_k(p.detach(), 1))}

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class GShardRouter(ComposedRouter):
    """Gates are shares of the two best probabilities, whatever pairs are run."""

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        p = routing.probabilities
        return weigh(plan, p / p.topk(2, dim=1).values.sum(dim=1, keepdim=True))


def router(
    width: int,
    n_experts: int,
    *,
    threshold: float = 0.5,
    capacity: float | None = 1.25,
    eval_capacity: float | None = None,
    weight: float = 0.01,
) -> GShardRouter:
    """Top two with a random second choice, capacity, load-balance loss on first choices.

    Args:
        width: D.
        n_experts: E, at least 2.
        threshold: the second stays with probability min(1, g_2 / threshold).
        capacity: factor in training; None for no limit.
        eval_capacity: factor in evaluation; None for no limit.
        weight: of the load-balance loss.

    Raises:
        MoEError: a single expert.
    """
    if n_experts < 2:
        raise MoEError(f"n_experts={n_experts}, expected at least 2: every token has two choices")
    return GShardRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=True),
        selection=SecondChoice(threshold, capacity=capacity, eval_capacity=eval_capacity),
        balance=[FirstChoiceLoss(weight)],
        contracts=None if eval_capacity is None else CAPPED_IN_EVALUATION,
    )


def build(
    shape: Shape,
    *,
    threshold: float = 0.5,
    capacity: float | None = 1.25,
    eval_capacity: float | None = None,
    weight: float = 0.01,
    gated: bool = True,
) -> list[nn.Module]:
    """One GShard layer per layer of `shape`, whose k does not count: k = 2."""
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            threshold=threshold,
            capacity=capacity,
            eval_capacity=eval_capacity,
            weight=weight,
        ),
        gated=gated,
    )
