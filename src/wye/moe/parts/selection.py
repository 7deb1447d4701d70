"""Selections of `wye.core` as parts of a router: each turns affinities into a plan.

A part is a module, so that what it keeps (a running quantile, a table) is saved with the router. It
gets `Candidates` and returns a plan whose weights are the affinities of its pairs, which the gate
rule then turns into gates; a part with `weighs = True` has said the last word on the weights.

Shape letters: S tokens, E experts, N routed pairs, K choices, C capacity.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wye.core import Plan, capped, top_k, top_p
from wye.moe.base import Context, MoEError


@dataclass(frozen=True)
class Candidates:
    """What a selection may read.

    Attributes:
        affinity: `[S, E]` float32; gradients flow to it through the weights of the plan.
        logits: `[S, E]` float32 that the affinities were made from.
        x_SD: `[S, D]` hidden states.
        context: of the tokens.
        bias: `[E]` or `[S, E]`, added to the affinity for the choice alone.
    """

    affinity: Tensor
    logits: Tensor
    x_SD: Tensor
    context: Context
    bias: Tensor | None = None

    @property
    def ranked(self) -> Tensor:
        """`[S, E]` what decides the choice: affinity and bias, without gradient."""
        affinity = self.affinity.detach()
        return affinity if self.bias is None else affinity + self.bias


class Selection(nn.Module, ABC):
    """A rule that turns candidates into a plan.

    Attributes:
        fan_out: K where every token gets exactly K pairs, listed token by token; else None.
        weighs: whether the plan's weights are gates already.
    """

    fan_out: int | None = None
    weighs: bool = False

    @abstractmethod
    def forward(self, candidates: Candidates) -> Plan:
        """Choose."""


class TopK(Selection):
    """The k experts of largest affinity plus bias; with `check=False` it compiles in one graph.

    Args:
        k: experts per token.
        check: read the values, to refuse NaN; always off under `torch.compile`.

    Raises:
        MoEError: k is no integer of at least 1.
    """

    def __init__(self, k: int, *, check: bool = True) -> None:
        super().__init__()
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise MoEError(f"k={k!r}, expected an integer of at least 1")
        self.k = k
        self.fan_out = k
        self.check = check

    def forward(self, candidates: Candidates) -> Plan:
        check = self.check and not torch.compiler.is_compiling()
        return top_k(candidates.affinity, self.k, bias=candidates.bias, check=check)

    def extra_repr(self) -> str:
        return f"k={self.k}"


class TopP(Selection):
    """The fewest experts whose affinities add up to p (arXiv 2403.07652).

    Args:
        p: in (0, 1].
        min_k, max_k: bounds on the experts of a token.
    """

    def __init__(self, p: float, *, min_k: int = 1, max_k: int | None = None) -> None:
        super().__init__()
        self.p, self.min_k, self.max_k = p, min_k, max_k

    def forward(self, candidates: Candidates) -> Plan:
        return top_p(candidates.affinity, self.p, min_k=self.min_k, max_k=self.max_k)

    def extra_repr(self) -> str:
        return f"p={self.p}, min_k={self.min_k}, max_k={self.max_k}"


class Capped(Selection):
    """Another selection of fixed fan-out, in which an expert takes only so many tokens.

    Capacity C = max(minimum, ceil(factor * S k / E)) in every group of S tokens. Pairs without a
    place leave the plan: their token keeps what the rest of its plan and the residual give it.
    In a router the gates are normalised over the choice, and the balance losses count it, before
    pairs leave (GShard, Switch).

    Args:
        inner: selection of fixed fan-out.
        factor: capacity factor in training; None for no limit.
        eval_factor: in evaluation; None for no limit, so that a token never depends on others.
        minimum: least capacity.
        priority: who stays: "position", all first choices before all second ones, in order of
            position; "score", the largest affinities.
        group: "batch" or "sequence", over which the capacity is counted.

    Raises:
        MoEError: an inner selection of variable fan-out, a factor that is negative.
    """

    def __init__(
        self,
        inner: Selection,
        *,
        factor: float | None = 1.25,
        eval_factor: float | None = None,
        minimum: int = 4,
        priority: Literal["position", "score"] = "position",
        group: Literal["batch", "sequence"] = "batch",
    ) -> None:
        super().__init__()
        if inner.fan_out is None:
            raise MoEError(
                f"{type(inner).__name__} gives tokens different numbers of experts, which has no "
                "capacity per choice: cap a selection of fixed fan-out, for instance TopK"
            )
        for name, value in (("factor", factor), ("eval_factor", eval_factor)):
            if value is not None and not value >= 0:
                raise MoEError(f"{name}={value}, expected a number >= 0 or None")
        if priority not in ("position", "score") or group not in ("batch", "sequence"):
            raise MoEError(
                f"priority={priority!r} and group={group!r}, expected 'position' or 'score' and "
                "'batch' or 'sequence'"
            )
        self.inner = inner
        self.k = inner.fan_out
        self.weighs = inner.weighs
        self.factor, self.eval_factor, self.minimum = factor, eval_factor, minimum
        self.priority, self.group = priority, group

    def forward(self, candidates: Candidates) -> Plan:
        plan: Plan = self.inner(candidates)
        return self.limit(plan, plan, candidates.context)

    def limit(self, plan: Plan, chosen: Plan, context: Context) -> Plan:
        """The pairs of `plan` that find a place.

        Args:
            plan: with its gates; normalise before, since a dropped pair gives the others nothing.
            chosen: the same pairs with the affinities that decide who stays.
            context: of the tokens.
        """
        factor = self.factor if self.training else self.eval_factor
        if factor is None or plan.n_sources == 0:
            return plan
        return self._capped(plan, chosen.weight.detach(), factor, context)

    def capacity(self, n_tokens: int, n_experts: int, factor: float) -> int:
        """C of a group of `n_tokens`."""
        return max(self.minimum, math.ceil(factor * n_tokens * self.k / n_experts - 1e-9))

    def _capped(self, plan: Plan, score: Tensor, factor: float, context: Context) -> Plan:
        rank = torch.arange(len(plan), device=plan.source.device) % self.k
        priority = score if self.priority == "score" else -rank.to(torch.float32)
        if self.group == "batch":
            limit = self.capacity(plan.n_sources, plan.n_targets, factor)
            return capped(plan, limit, priority=priority)
        # Every sequence has its own copy of the experts, as far as places go.
        sequence = context.sequence(plan.source.device)
        lengths = torch.bincount(sequence, minlength=context.batch)
        n = plan.n_targets
        limits = torch.tensor(
            [self.capacity(int(length), n, factor) for length in lengths],
            device=plan.source.device,
        )
        wide = Plan(
            plan.source,
            plan.target + n * sequence[plan.source],
            plan.weight,
            plan.n_sources,
            n * context.batch,
        )
        kept = capped(wide, limits.repeat_interleave(n), priority=priority)
        return Plan(kept.source, kept.target % n, kept.weight, plan.n_sources, n)

    def extra_repr(self) -> str:
        return (
            f"factor={self.factor}, eval_factor={self.eval_factor}, priority={self.priority}, "
            f"group={self.group}"
        )
