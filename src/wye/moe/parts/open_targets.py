"""Experts that open to a layer one by one while it trains.

    n(t) = N                                            for t < t0
           N + floor((E - N) (t - t0) / (t1 - t0))      for t0 <= t < t1
           E                                            from t1 on
of E candidates, N of them the layer's own. Closed ones get logits of -inf, before any softmax.

Shape letters: S tokens, E candidate experts, N own experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wye.moe.base import Context, MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.balance import Balance, LoadBalanceLoss, LossFreeBias, Routed
from wye.moe.parts.scores import Scored, Scores
from wye.moe.parts.selection import Candidates


@dataclass(frozen=True)
class Opening:
    """When foreign experts open: the first after step `start`, the last at step `end`.

    Raises:
        MoEError: steps below 0 or out of order.

    Example:
        >>> [int(Opening(10, 20).number(t, own=2, total=6)) for t in (0, 10, 15, 20, 99)]
        [2, 2, 4, 6, 6]
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise MoEError(f"start={self.start} and end={self.end}, expected 0 <= start <= end")

    def number(self, step: int | Tensor, *, own: int, total: int) -> Tensor:
        """n(t), an int64 scalar.

        Args:
            step: t, optimiser steps so far.
            own: N.
            total: E.
        """
        t = torch.as_tensor(step, dtype=torch.int64)
        span = max(self.end - self.start, 1)
        passed = (t - self.start).clamp(min=0)
        opened = torch.where(t >= self.end, total - own, (total - own) * passed // span)
        return own + opened


class OpenScores(Scores):
    """Another source of scores, of which only the candidates that are open count.

    Own experts are open from the start; foreign ones open in the order of a fixed random
    permutation, which is saved with the router, as is the count of steps.

    Args:
        inner: logits of all E candidates.
        own: indices of the layer's own experts among them.
        opening: when the others open; all are open when not given.
        seed: of the permutation.

    Raises:
        MoEError: own experts that are none, or no candidates.
    """

    rank_E: Tensor
    steps: Tensor

    def __init__(
        self, inner: Scores, own: range, *, opening: Opening | None = None, seed: int = 0
    ) -> None:
        super().__init__(inner.n_experts)
        if not own or min(own) < 0 or max(own) >= inner.n_experts:
            raise MoEError(
                f"own={own} of {inner.n_experts} candidates, expected at least one of them"
            )
        self.inner = inner
        self.own, self.opening = own, opening
        foreign = torch.tensor([e for e in range(inner.n_experts) if e not in own])
        drawn = torch.randperm(len(foreign), generator=torch.Generator().manual_seed(seed))
        rank = torch.zeros(inner.n_experts, dtype=torch.int64)
        rank[list(own)] = torch.arange(len(own))
        rank[foreign[drawn].long()] = len(own) + torch.arange(len(foreign))
        self.register_buffer("rank_E", rank)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x_SD: Tensor, context: Context) -> Scored:
        scored: Scored = self.inner(x_SD, context)
        if self.opening is None:
            return scored
        shut = ~self.open_at(self.steps)
        return Scored(scored.logits.masked_fill(shut, -torch.inf), state=scored.state)

    def open_at(self, step: int | Tensor) -> Tensor:
        """Which candidates are open after `step` optimiser steps, booleans `[E]`."""
        if self.opening is None:
            return torch.ones_like(self.rank_E, dtype=torch.bool)
        number = self.opening.number(step, own=len(self.own), total=self.n_experts)
        return self.rank_E < number.to(self.rank_E.device)

    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1

    def extra_repr(self) -> str:
        return f"own={self.own}, opening={self.opening}"


class Shut(Balance):
    """Keeps closed experts out of the choice.

    Their affinity is 0, which a bias, or open affinities that underflow, could outbid.
    """

    def bias(self, candidates: Candidates) -> Tensor:
        shut = candidates.logits == -torch.inf
        return torch.zeros_like(candidates.logits).masked_fill(shut, -torch.inf)


class OpenLoadBalanceLoss(LoadBalanceLoss):
    """weight * n(t) sum_i phi_i P_i over the open candidates: 1 where they share evenly.

    Args:
        weight, scope: as in `LoadBalanceLoss`.
    """

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        share = _open(routed).to(torch.float32).mean()
        return {name: share * loss for name, loss in super().losses(routed).items()}


class OpenLossFreeBias(LossFreeBias):
    """Loss-free balancing among the open candidates; a closed one keeps its bias.

    Args:
        n_experts, rate: as in `LossFreeBias`.
    """

    def __init__(self, n_experts: int, rate: float = 1e-3) -> None:
        super().__init__(n_experts, rate)
        self._open_E: Tensor | None = None

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        if not recomputing():
            opened = _open(routed)
            self._open_E = opened if self._open_E is None else self._open_E | opened
        return super().losses(routed)

    @torch.no_grad()
    def after_step(self) -> None:
        opened, self._open_E = self._open_E, None
        if opened is None:
            return
        load = self.load
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(load)
        load = load.to(torch.float64)
        move = torch.sign(load[opened].mean() - load).to(self.bias_E.dtype)
        self.bias_E += self.rate * torch.where(opened, move, 0.0)
        self._load_E = None


def balance_of_open(
    n_experts: int, kind: Literal["loss", "bias", "none"], weight: float, rate: float
) -> list[Balance]:
    """Controllers of a router with closed candidates.

    Args:
        n_experts: E.
        kind: a loss, a bias, or neither.
        weight: of the loss.
        rate: of the bias.

    Raises:
        MoEError: an unknown kind.
    """
    if kind not in ("loss", "bias", "none"):
        raise MoEError(f"balance={kind!r}, expected 'loss', 'bias' or 'none'")
    if kind == "loss":
        return [OpenLoadBalanceLoss(weight), Shut()]
    return [OpenLossFreeBias(n_experts, rate), Shut()] if kind == "bias" else [Shut()]


def _open(routed: Routed) -> Tensor:
    """Booleans `[E]`: candidates that any token may choose."""
    return (routed.scored.logits > -torch.inf).any(dim=0)
