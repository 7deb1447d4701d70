"""What keeps experts evenly loaded: losses, a bias, prices, or nothing.

A controller may add a bias to the affinities for the choice alone (`bias`), add terms to the loss
(`losses`), and update itself once per optimiser step (`after_step`). A router holds any number.

Conventions: phi_i counts pairs over all pairs (sum 1), so that the balanced value of the
load-balance loss is 1 for every k; losses are means over tokens, added layer by layer, each with
its own weight, and never divided by the number of layers.

Shape letters: S tokens, E experts, N routed pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wye.core import Plan, dual_prices, entropy, load_balance, z_loss
from wye.moe.base import Context, MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.scores import Scored
from wye.moe.parts.selection import Candidates


@dataclass(frozen=True)
class Routed:
    """A choice that was made, as the losses read it.

    Attributes:
        scored: what the score source gave.
        candidates: what the selection read.
        probabilities: `[S, E]` affinities whose rows sum to 1 (or to 0).
        plan: before the gate rule.
    """

    scored: Scored
    candidates: Candidates
    probabilities: Tensor
    plan: Plan


class Balance(nn.Module):
    """A balance controller; the base does nothing."""

    def bias(self, candidates: Candidates) -> Tensor | None:
        """`[E]` or `[S, E]`, added to the affinities for the choice alone; None for none."""
        return None

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        """Weighted scalars by name; called in training only."""
        return {}

    def after_step(self) -> None:
        """Called once after every optimiser step."""


class LoadBalanceLoss(Balance):
    """weight * E sum_i phi_i P_i (Switch, arXiv 2101.03961, equations 4 to 6).

    Args:
        weight: of the loss in this layer.
        scope: "batch" counts over the tokens of one forward pass; "sequence" over each sequence
            separately (the mean over sequences counts).

    Raises:
        MoEError: an unknown scope.
    """

    def __init__(
        self, weight: float = 0.01, *, scope: Literal["batch", "sequence"] = "batch"
    ) -> None:
        super().__init__()
        if scope not in ("batch", "sequence"):
            raise MoEError(f"scope={scope!r}, expected 'batch' or 'sequence'")
        self.weight, self.scope = weight, scope

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        p, plan = routed.probabilities, routed.plan
        if plan.n_sources == 0:
            return {}
        if self.scope == "batch":
            return {"balance": self.weight * load_balance(p, plan)}
        return {"balance": self.weight * _sequence_balance(p, plan, routed.candidates)}

    def extra_repr(self) -> str:
        return f"weight={self.weight}, scope={self.scope}"


class ZLoss(Balance):
    """weight * mean (logsumexp_i z_ti)^2 (ST-MoE, arXiv 2202.08906, equation 5)."""

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        return {"z": self.weight * z_loss(routed.scored.logits)}

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class EntropyLoss(Balance):
    """weight * mean entropy of the probabilities: a positive weight sharpens the router."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        return {"entropy": self.weight * entropy(routed.probabilities)}

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class LossFreeBias(Balance):
    """b_i += rate * sign(mean load - load_i) after every optimiser step (arXiv 2408.15664, alg. 1).

    The bias takes part in the choice and never in the gates. The load is summed over all training
    passes since the last step, and over all processes of `torch.distributed`.

    Args:
        n_experts: E.
        rate: u. 1e-3 suits affinities in [0, 1] (sigmoid); softmax affinities are about 1/E, and
            so should the rate be 0.1/E or so.
    """

    bias_E: Tensor

    def __init__(self, n_experts: int, rate: float = 1e-3) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("bias_E", torch.zeros(n_experts))
        # No buffer: DistributedDataParallel would overwrite it with that of the first process.
        self._load_E: Tensor | None = None

    @property
    def load(self) -> Tensor:
        """Pairs per expert of the training passes since the last step, int64 `[E]`."""
        if self._load_E is None:
            return torch.zeros_like(self.bias_E, dtype=torch.int64)
        return self._load_E.to(self.bias_E.device)

    def bias(self, candidates: Candidates) -> Tensor:
        return self.bias_E

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        if not recomputing():
            self._load_E = self.load + routed.plan.load()
        return {}

    @torch.no_grad()
    def after_step(self) -> None:
        load = self.load
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(load)
        load = load.to(torch.float64)
        self.bias_E += self.rate * torch.sign(load.mean() - load).to(self.bias_E.dtype)
        self._load_E = None

    def _apply(self, fn: Any, recurse: bool = True) -> LossFreeBias:
        apply: Callable[..., nn.Module] = super()._apply
        return keep_float32(self, ("bias_E",), lambda: apply(fn, recurse))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class DualPrices(Balance):
    """Minus the prices at which the top k of this very batch is balanced (arXiv 2502.15451).

    In evaluation the prices are frozen at a running mean of those of training, or zero: solving
    for the batch would make one user's routing depend on the other users in it.

    Args:
        n_experts: E.
        k: choices per token.
        rounds: T of dual coordinate descent.
        warm_start: start from the prices of the last batch.
        evaluation: "mean" or "zero".
        momentum: of the running mean.
        shares: `[E]` how the load is divided, scaled to sum to 1; equally by default.
        tie_break: in training, times a fixed number in [0, 1) of each token's place and expert,
            added to the affinities for the choice: it parts tokens with identical scores, which no
            price can. 1e-6 is enough.

    Raises:
        MoEError: an unknown `evaluation`, shares that are no E numbers >= 0, a negative tie_break.
    """

    price_E: Tensor
    mean_E: Tensor
    batches: Tensor

    def __init__(
        self,
        n_experts: int,
        k: int,
        *,
        rounds: int = 4,
        warm_start: bool = True,
        evaluation: Literal["mean", "zero"] = "mean",
        momentum: float = 0.99,
        shares: Sequence[float] | None = None,
        tie_break: float = 0.0,
    ) -> None:
        super().__init__()
        if evaluation not in ("mean", "zero"):
            raise MoEError(f"evaluation={evaluation!r}, expected 'mean' or 'zero'")
        if not tie_break >= 0:
            raise MoEError(f"tie_break={tie_break}, expected a number >= 0")
        self.shares, self.tie_break = checked_shares(shares, n_experts), tie_break
        self.k, self.rounds, self.warm_start = k, rounds, warm_start
        self.evaluation, self.momentum = evaluation, momentum
        self.register_buffer("price_E", torch.zeros(n_experts))
        self.register_buffer("mean_E", torch.zeros(n_experts))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._started_E: Tensor | None = None

    @torch.no_grad()
    def bias(self, candidates: Candidates) -> Tensor:
        if not self.training:
            return -self.mean_E if self.evaluation == "mean" else torch.zeros_like(self.mean_E)
        if candidates.affinity.shape[0] == 0:
            return -self.price_E
        start = self.price_E if self.warm_start else None
        if recomputing() and self._started_E is not None:
            # The same start as in the pass that is repeated, or the choice would differ.
            start = self._started_E
        affinity, jitter = candidates.affinity, None
        if self.tie_break > 0:
            jitter = self.tie_break * fixed_jitter(affinity, candidates.context)
            affinity = affinity + jitter
        price: Tensor = dual_prices(
            affinity,
            self.k,
            quota=quota_of(self.shares, self.k * affinity.shape[0], affinity.shape[0]),
            rounds=self.rounds,
            start=start,
        )
        if not recomputing():
            self._started_E = None if start is None else start.clone()
            self.price_E.copy_(price)
            self.batches += 1
            # Early on the plain mean, which is not drawn towards the zeros of the start.
            share = (1.0 / self.batches).clamp(min=1.0 - self.momentum)
            self.mean_E += share * (price - self.mean_E)
        return -price if jitter is None else jitter - price

    def _apply(self, fn: Any, recurse: bool = True) -> DualPrices:
        apply: Callable[..., nn.Module] = super()._apply
        return keep_float32(self, ("price_E", "mean_E"), lambda: apply(fn, recurse))

    def extra_repr(self) -> str:
        return f"k={self.k}, rounds={self.rounds}, warm_start={self.warm_start}"


def checked_shares(shares: Sequence[float] | None, n_experts: int) -> tuple[float, ...] | None:
    """Shares of the load that sum to 1; None stays None.

    Raises:
        MoEError: another number than E, one that is negative or not finite, or only zeros.
    """
    if shares is None:
        return None
    given = tuple(float(s) for s in shares)
    total = sum(given)
    if len(given) != n_experts or min(given) < 0 or not 0 < total < float("inf"):
        raise MoEError(f"shares={list(shares)}, expected {n_experts} numbers >= 0, not all 0")
    return tuple(s / total for s in given)


def quota_of(
    shares: tuple[float, ...] | None, n_pairs: int, n_tokens: int
) -> NDArray[np.int64] | None:
    """Most tokens per expert `[E]` for `n_pairs` pairs divided by `shares`; None for equal ones.

    An expert takes a token once at most: what its share exceeds that by goes to the others.

    Raises:
        MoEError: experts with a share that have too few places for all pairs.
    """
    if shares is None:
        return None
    share = np.asarray(shares)
    quota = np.zeros(len(shares))
    free = share > 0
    while n_pairs > quota.sum() and free.any():
        quota[free] += (n_pairs - quota.sum()) * share[free] / share[free].sum()
        quota = np.minimum(quota, n_tokens)
        free &= quota < n_tokens
    places = np.minimum(np.ceil(quota - 1e-9), n_tokens).astype(np.int64)
    if places.sum() < n_pairs:
        raise MoEError(
            f"shares={list(shares)} leave {int((share > 0).sum())} experts, too few for the "
            "experts per token: give more of them a share"
        )
    return places


def fixed_jitter(like_SE: Tensor, context: Context) -> Tensor:
    """`[S, E]` numbers in [0, 1), scattered, fixed by the token's place in the grid and expert."""
    n_tokens, n_experts = like_SE.shape
    place = context.place
    if place is None:
        place = torch.arange(n_tokens, device=like_SE.device)
    expert = torch.arange(n_experts, device=like_SE.device)
    # A multiplicative hash (Knuth, vol. 3, section 6.4) of both numbers, mixed once more.
    key = (place[:, None] * 2_654_435_761 + expert * 40_503 + 12_345) & 0xFFFFFFFF
    key = ((key ^ (key >> 15)) * 2_246_822_519) & 0xFFFFFFFF
    return (key ^ (key >> 13)).to(like_SE.dtype) / float(1 << 32)


_M = TypeVar("_M", bound=nn.Module)


def keep_float32(module: _M, names: tuple[str, ...], apply: Callable[[], nn.Module]) -> _M:
    """Run `apply`, which moves or casts `module`, and give the buffers `names` float32 back.

    `model.bfloat16()` would otherwise round away every small step of a bias or price.

    Args:
        module: owner of the buffers.
        names: of float32 buffers.
        apply: the module's own `_apply`.
    """
    before = {name: getattr(module, name) for name in names}
    apply()
    for name, value in before.items():
        moved = getattr(module, name)
        if moved.dtype != torch.float32:
            setattr(module, name, value.to(device=moved.device, dtype=torch.float32))
    return module


def _sequence_balance(p: Tensor, plan: Plan, candidates: Candidates) -> Tensor:
    context = candidates.context
    sequence = context.sequence(p.device)
    shape = (context.batch, plan.n_targets)
    cell = sequence[plan.source] * plan.n_targets + plan.target
    pairs = torch.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).to(p.dtype)
    tokens = torch.bincount(sequence, minlength=context.batch).to(p.dtype)
    mean = p.new_zeros(shape).index_add(0, sequence, p) / tokens.clamp(min=1)[:, None]
    phi = pairs / pairs.sum(dim=1, keepdim=True).clamp(min=1)
    present = tokens > 0
    each = plan.n_targets * (phi * mean).sum(dim=1)
    return torch.where(present, each, 0.0).sum() / present.sum().clamp(min=1)
