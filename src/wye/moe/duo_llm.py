"""Duo-LLM: each token takes a big network, a small one or none in every layer.

Token -> one of big, small (and skip) per layer, when it passes the layer; while the model learns at
random, later by a router from its hidden state (Alizadeh et al. 2024, arXiv 2410.10846; its
abstract and public reading notes).
    x <- x + F_c(norm(x)),  c in {big, small} or {big, small, skip};  F_skip = 0
Stage 1 (`RandomRouter`): c is drawn per token and layer, 0.5 and 0.5, or 0.45, 0.45 and 0.10 with
skip, so that every path works. In evaluation all tokens take big.
Stage 2: how far any router could go, `wye.moe.diagnostics.route_oracle`.
Stage 3 (`BudgetRouter`, put in by `learn_routes`): P = softmax(W_r x / tau); in training the
mixture sum_c P_c F_c(x) while tau falls from 1 to 0.1, then the hard choice with straight-through
gradients; in evaluation the largest P. One budget for all layers together, so that they are free
to differ:
    L_budget = lambda (mean over layers and tokens of P_big - target)^2
Our choices where nothing is stated: the share of skip, tau linear over `sharpen` steps, lambda 10,
a frozen backbone in stage 3.

Shape letters: S tokens, T targets of a layer (big, small, skip), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, SelectionError, straight_through
from wye.moe.base import Context, MoEError, RoutedModule, Router, Routing, routed_layers
from wye.moe.build import Shape
from wye.moe.layer import MoELayer
from wye.moe.parts.unequal_experts import UnequalExperts

BIG, SMALL, SKIP = 0, 1, 2


class RandomRouter(Router):
    """Draws one target per token in training; big in evaluation.

    Args:
        width: D.
        shares: `[T]` probability of every target; drawn from PyTorch's global generator.

    Raises:
        MoEError: shares that are negative or do not sum to 1.
    """

    def __init__(self, width: int, shares: tuple[float, ...]) -> None:
        super().__init__(width, len(shares))
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise MoEError(f"shares={shares}, expected probabilities that sum to 1")
        self.shares = shares

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        n = x_SD.shape[0]
        p = torch.tensor(self.shares, device=x_SD.device).expand(n, -1)
        if not self.training:
            target = torch.full((n,), BIG, device=x_SD.device)
        elif n:
            target = torch.multinomial(p, 1)[:, 0]
        else:
            target = torch.zeros(0, dtype=torch.int64, device=x_SD.device)
        ones = torch.ones(n, device=x_SD.device)
        source = torch.arange(n, device=x_SD.device)
        return Routing(Plan(source, target, ones, n, self.n_experts), torch.zeros_like(p), p)

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return plan.with_weight(torch.ones_like(plan.weight, dtype=torch.float32))


class BudgetRouter(Router):
    """A learned choice per token, under one budget for all layers.

    It hands up the sum of P_big over the layers so far; the last layer turns it into the loss.

    Args:
        width: D.
        n_targets: T, 2 or 3.
        target: share of big over all layers and tokens that the budget allows.
        budget: lambda.
        n_layers: routed layers of the model.
        last: this is the last of them.
        sharpen: optimiser steps in which tau falls from 1 to 0.1; hard after them.

    Raises:
        MoEError: a target outside [0, 1], or fewer than one step or layer.
    """

    steps: Tensor

    def __init__(
        self,
        width: int,
        n_targets: int = 2,
        *,
        target: float,
        budget: float = 10.0,
        n_layers: int = 1,
        last: bool = True,
        sharpen: int = 150,
    ) -> None:
        super().__init__(width, n_targets)
        if not 0 <= target <= 1 or sharpen < 1 or n_layers < 1:
            raise MoEError(
                f"target={target}, sharpen={sharpen} and n_layers={n_layers}, expected a share "
                "from 0 to 1 and at least 1"
            )
        self.scores = nn.Linear(width, n_targets, bias=False)
        nn.init.normal_(self.scores.weight, std=0.02)
        self.target, self.budget, self.n_layers = target, budget, n_layers
        self.last, self.sharpen = last, sharpen
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> float:
        """tau of the next training pass."""
        return max(1.0 - 0.9 * int(self.steps) / self.sharpen, 0.1)

    @property
    def hard(self) -> bool:
        """Whether training passes choose instead of mixing."""
        return int(self.steps) >= self.sharpen

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        with torch.autocast(x_SD.device.type, enabled=False):
            logits = F.linear(x_SD.float(), self.scores.weight.float())
            if bool(logits.isnan().any()):
                raise SelectionError("the hidden states hold NaN: look at what enters the layer")
            p = torch.softmax(logits / self.temperature, dim=-1)
            big = p[:, BIG] if context.state is None else context.state[:, 0] + p[:, BIG]
            losses = {}
            if self.training and self.last and p.shape[0]:
                losses["budget"] = self.budget * budget_loss(big / self.n_layers, self.target)
            return Routing(self._plan(p), logits, p, losses, big[:, None])

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        ones = torch.ones_like(plan.weight, dtype=torch.float32)
        if not self.training:
            return plan.with_weight(ones)
        p = routing.probabilities[plan.source, plan.target]
        return plan.with_weight(straight_through(ones, p) if self.hard else p)

    def after_step(self) -> None:
        self.steps += 1

    def _plan(self, p: Tensor) -> Plan:
        n, t = p.shape
        if self.training and not self.hard:
            target = torch.arange(t, device=p.device).expand(n, -1)
            return Plan.from_rows(target, p, t)
        best = p.detach().argmax(dim=-1, keepdim=True)
        chosen = p.gather(1, best)
        ones = torch.ones_like(chosen)
        return Plan.from_rows(best, straight_through(ones, chosen) if self.training else ones, t)


def budget_loss(big: Tensor, target: float) -> Tensor:
    """(mean of P_big - target)^2, zero exactly where the mean is the target, however it is spread.

    Args:
        big: P_big of every token (and layer), padding left out.
        target: share of big.
    """
    return (big.mean() - target).square()


def build(
    shape: Shape,
    *,
    small: int | None = None,
    skip: bool = False,
    shares: tuple[float, ...] | None = None,
    gated: bool = True,
) -> list[nn.Module]:
    """Layers of stage 1, which choose at random in training.

    Args:
        shape: `hidden` is the width of the big network; `n_experts` and `k` are not read, since the
            targets are big, small and skip, one per token.
        small: width of the small network; a sixteenth of the big one when not given.
        skip: a third target that does nothing.
        shares: probability of big, small (and skip).
        gated: networks are gated (SwiGLU).

    Raises:
        MoEError: another number of shares than of targets.
    """
    inner = max(shape.hidden // 16, 1) if small is None else small
    hidden = [shape.hidden, inner, 0] if skip else [shape.hidden, inner]
    if shares is None:
        shares = (0.45, 0.45, 0.10) if skip else (0.5, 0.5)
    if len(shares) != len(hidden):
        raise MoEError(f"shares={shares}, expected {len(hidden)}: big, small{', skip' * skip}")
    return [
        MoELayer(
            RandomRouter(shape.width, shares), UnequalExperts(shape.width, hidden, gated=gated)
        )
        for _ in range(shape.n_layers)
    ]


def learn_routes(
    model: nn.Module,
    *,
    target: float,
    budget: float = 10.0,
    sharpen: int = 150,
    freeze: bool = True,
) -> nn.Module:
    """Put learned routers into a model of stage 1, in place, and return it.

    Args:
        model: its routed layers are those of `build`, in the order in which they run.
        target, budget, sharpen: as in `BudgetRouter`.
        freeze: train the routers alone.

    Raises:
        MoEError: a routed layer of another kind, or none.
    """
    layers: list[RoutedModule] = list(routed_layers(model).values())
    if not layers or not all(isinstance(x.router, (RandomRouter, BudgetRouter)) for x in layers):
        raise MoEError("expected a model whose routed layers are those of duo_llm.build")
    if freeze:
        model.requires_grad_(False)
    for index, layer in enumerate(layers):
        device = next(layer.parameters()).device
        layer.router = BudgetRouter(
            layer.router.width,
            layer.router.n_experts,
            target=target,
            budget=budget,
            n_layers=len(layers),
            last=index == len(layers) - 1,
            sharpen=sharpen,
        ).to(device)
        layer.router.train(layer.training)
    return model
