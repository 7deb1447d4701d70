"""Selections that read no score: by a table of token ids, or at random.

Their weights are gates already: there is no router to weigh them.

Shape letters: S tokens, E experts, V ids, K choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wye.core import Plan, balanced_table, hashed, uniform
from wye.moe.base import Context, MoEError, Routing
from wye.moe.parts.balanced_selections import checked_k
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import NoScores
from wye.moe.parts.selection import Candidates, Selection
from wye.moe.router import ComposedRouter


class HashedSelection(Selection):
    """A fixed map token id -> expert, gate 1 (hash layers, arXiv 2106.04426).

    Ids outside [0, V) go to id mod E.

    Args:
        n_experts: E.
        vocabulary: V.
        frequency: `[V]` counts of the ids, for the balanced table: ids by falling frequency each
            go to the least loaded expert. Without it the table is random and uniform.
        seed: of the random table.

    Raises:
        MoEError: a vocabulary below 1, or frequencies of another number.
    """

    table_V: Tensor
    weighs = True

    def __init__(
        self,
        n_experts: int,
        *,
        vocabulary: int = 256,
        frequency: Sequence[float] | Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if vocabulary < 1:
            raise MoEError(f"vocabulary={vocabulary}, expected at least 1")
        self.n_experts = n_experts
        self.fan_out = 1
        if frequency is None:
            table = hashed(torch.arange(vocabulary), n_experts, seed=seed).target
        else:
            counts = torch.as_tensor(frequency, dtype=torch.float64)
            if counts.shape != (vocabulary,):
                raise MoEError(
                    f"frequency has shape {tuple(counts.shape)}, expected [vocabulary={vocabulary}]"
                )
            table = torch.as_tensor(balanced_table(counts.numpy(), n_experts))
        self.register_buffer("table_V", table.to(torch.int64))

    def forward(self, candidates: Candidates) -> Plan:
        ids = candidates.context.need("token_ids", "a hash layer").long()
        target = self.experts_of(ids.to(candidates.affinity.device))
        weight = torch.ones_like(target, dtype=torch.float32)
        return Plan.from_rows(target[:, None], weight[:, None], self.n_experts)

    def experts_of(self, ids: Tensor) -> Tensor:
        """The expert of every id, int64 of the shape of `ids`."""
        known = (ids >= 0) & (ids < self.table_V.shape[0])
        return torch.where(known, self.table_V[torch.where(known, ids, 0)], ids % self.n_experts)

    def extra_repr(self) -> str:
        return f"n_experts={self.n_experts}, vocabulary={self.table_V.shape[0]}"


class UniformSelection(Selection):
    """k different experts, all equally likely, each with gate 1 / k.

    In training the draws come from PyTorch's global generator. In evaluation they are fixed by the
    token's rank in its sequence, padding not counted, and the seed, so that a model gives one
    answer to one input.

    Args:
        k: experts per token.
        seed: of the draws in evaluation.

    Raises:
        MoEError: k is no integer of at least 1.
    """

    weighs = True

    def __init__(self, k: int = 1, *, seed: int = 0) -> None:
        super().__init__()
        self.k = self.fan_out = checked_k(k)
        self.seed = seed

    def forward(self, candidates: Candidates) -> Plan:
        scores = candidates.affinity
        if self.training:
            plan = uniform(scores.detach(), self.k, generator=None)
        else:
            plan = hashed(
                _rank(candidates.context, scores.device), scores.shape[1], self.k, seed=self.seed
            )
        return plan.with_weight(torch.full_like(plan.weight, 1.0 / self.k, dtype=torch.float32))

    def extra_repr(self) -> str:
        return f"k={self.k}, seed={self.seed}"


def _rank(context: Context, device: torch.device) -> Tensor:
    """How many tokens of its sequence stand before each token, int64 `[S]`."""
    sequence = context.sequence(device)
    lengths = torch.bincount(sequence, minlength=context.batch)
    start = torch.cumsum(lengths, 0) - lengths
    return torch.arange(sequence.shape[0], device=device) - start[sequence]


class UnscoredRouter(ComposedRouter):
    """A selection that reads no score; whatever pairs are run, each of k counts 1 / k.

    Args:
        width: D.
        n_experts: E.
        selection: of fixed fan-out.
    """

    def __init__(
        self, width: int, n_experts: int, selection: HashedSelection | UniformSelection
    ) -> None:
        gate = Gate(affinity="identity")
        super().__init__(width, NoScores(n_experts), gate=gate, selection=selection)

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        share = 1.0 / (self.selection.fan_out or 1)
        return plan.with_weight(torch.full_like(plan.weight, share, dtype=torch.float32))
