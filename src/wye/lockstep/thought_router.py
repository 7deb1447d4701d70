"""Which models think about a query, and which of them speaks: top-K of M with a primary.

A network reads the embedding z of the prompt:

    s = r(z),   I = TopK(s, K),   m* = argmax_{m in I} s_m

In training s' = s + Gumbel noise takes the place of s, and the choice carries the gradient of
softmax(s' / tau) straight through (`wye.core.straight_through`): a = hard + soft - stopgrad(soft).
It reaches the router only where a multiplies something, which `mixture_of_thoughts` does. Mixture
of Thoughts, arXiv 2509.21164; that the primary is the best of s' and not of s is ours, so that
every model speaks at times while it learns.

Shape letters: B queries, M models, K active ones, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wye.core import Plan, gumbel_noise, straight_through, top_k
from wye.lockstep.base import LockstepError


@dataclass(frozen=True)
class Roles:
    """Who is active on each of B queries, and in which role.

    Attributes:
        plan: the queries and their K models, the primary first.
        primary: `[B]` the model that speaks.
        weight: a `[B, M]`, exactly 1 at active models and 0 elsewhere; gradients flow to the
            router while it learns.
        scores: s `[B, M]`, without noise.
    """

    plan: Plan
    primary: Tensor
    weight: Tensor
    scores: Tensor

    @property
    def active(self) -> Tensor:
        """`[B, M]` booleans."""
        return self.weight.detach() > 0.5

    def groups(self) -> list[tuple[Tensor, int, tuple[int, ...]]]:
        """Rows that have one primary and one active set: (rows, primary, active in order)."""
        if not len(self.primary):
            return []
        keys = torch.cat([self.primary[:, None], self.active.long()], dim=1)
        kinds, kind_of = torch.unique(keys, dim=0, return_inverse=True)
        return [
            (
                (kind_of == number).nonzero()[:, 0],
                int(kind[0]),
                tuple(kind[1:].nonzero()[:, 0].tolist()),
            )
            for number, kind in enumerate(kinds)
        ]


class ThoughtRouter(nn.Module):
    """Scores of M models from the embedding of a prompt: two hidden layers with ReLU and dropout.

    Args:
        width: D.
        n_models: M.
        k: active models of a query.
        hidden: width of the hidden layers.
        dropout: of the hidden layers.

    Raises:
        LockstepError: k out of range.
    """

    def __init__(
        self, width: int, n_models: int, *, k: int, hidden: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if not 1 <= k <= n_models:
            raise LockstepError(f"k={k}, expected 1 to {n_models} models")
        self.k = k
        self.network = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_models),
        )

    def forward(
        self,
        z_BD: Tensor,
        *,
        noise: bool = False,
        generator: torch.Generator | None = None,
        tau: float = 1.0,
        primary: Tensor | None = None,
        dropped: Collection[int] = (),
    ) -> Roles:
        """Roles of the models on each query.

        Args:
            z_BD: embeddings of the prompts.
            noise: choose by s' instead of s, and let gradients through the choice.
            generator: of the noise; PyTorch's global one when not given.
            tau: temperature of the soft choice, > 0.
            primary: `[B]` who speaks, whatever the scores; the rest of the K is chosen besides.
            dropped: models that do not take part unless they are the primary.

        Raises:
            LockstepError: embeddings of another width, or tau not positive.
        """
        first: nn.Linear = self.network[0]  # type: ignore[assignment]
        if z_BD.ndim != 2 or z_BD.shape[1] != first.in_features:
            raise LockstepError(
                f"embeddings have shape {tuple(z_BD.shape)}, expected [B, {first.in_features}]"
            )
        if not tau > 0:
            raise LockstepError(f"tau={tau}, expected a number > 0")
        scores = self.network(z_BD)
        noisy = scores + gumbel_noise(scores.shape, scores, generator) if noise else scores
        ranked = noisy.detach()
        if primary is not None:
            ranked = ranked.scatter(1, primary[:, None], torch.inf)
            # Infinite scores are no scores: any finite one above the rest will do.
            ranked = ranked.clamp(max=float(noisy.detach().abs().max()) + 1.0)
        plan = top_k(ranked, self.k, weight="one")
        spoken = plan.target.view(-1, self.k)[:, 0]
        if dropped:
            gone = torch.isin(plan.target, torch.tensor(sorted(dropped), device=z_BD.device))
            plan = plan.where(~gone | (plan.target == spoken[plan.source]))
        hard = plan.dense().to(scores.dtype)
        weight = straight_through(hard, torch.softmax(noisy / tau, dim=-1)) if noise else hard
        return Roles(plan, spoken, weight, scores)
