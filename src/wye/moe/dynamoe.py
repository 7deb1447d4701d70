"""DynaMoE: experts above a percentile, and experts shared out over depth (arXiv 2603.01697).

Token -> the experts whose gate lies above a percentile, at least one, when the token passes the
layer, from its hidden state alone; the number of experts N_l of layer l follows a schedule
(`wye.moe.parts.schedules`).

    g = softmax(W_l x / T)                      T 0.5; in training g <- g + 0.1 N(0, I)
    S = {i : g_i > theta}, else {argmax g}
    w = second softmax over S
    y = sum_{i in S} w_i f_i(x)

    scope "token"   theta = percentile_tau of the token's own g: k = max(1, N-1 - floor(tau (N-1)))
                    experts whatever the token, so it is done by rank
    scope "batch"   theta = percentile_tau of all gates of the batch, a running mean of it in
                    evaluation; the number of experts then varies with the token

The second softmax acts on the gates ("gates": nearly equal weights, none above e times another) or
on the logits z / T ("logits": g renormalised over S). Noise reaches the weights of "gates" and only
the choice of "logits".

Source: a third party's reading of the whole paper and the abstract; there is no public code. Ours:
scope "batch" (the published rule has scope "token"), "logits" by default, tau 0.5, router without
bias and of standard deviation 0.02, the balance loss of 0.01 where not `faithful` (the paper has
none), the formulas and fixed total of the schedules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from wye.core import Plan, softmaxed, weigh
from wye.moe.base import MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import Balance, LoadBalanceLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.schedules import Kind, expert_schedule
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Candidates, Selection, TopK
from wye.moe.parts.thresholds import AboveQuantile, percentile_fan_out
from wye.moe.router import ComposedRouter, Transform

Scope = Literal["token", "batch"]
Combine = Literal["gates", "logits"]


@dataclass(frozen=True, kw_only=True)
class SecondSoftmax(Gate):
    """w_i = exp(g_i) / sum_{j in S} exp(g_j): a softmax over chosen gates that are one already."""

    def weigh(self, plan: Plan, affinity: Tensor | None = None, *, k: int | None = None) -> Plan:
        return softmaxed(plan if affinity is None else weigh(plan, affinity))


class GateNoise(Transform):
    """Gaussian noise on the gates in training, for choice and weights.

    Draws come from PyTorch's global generator.

    Args:
        std: standard deviation.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, affinity: Tensor, candidates: Candidates) -> Tensor:
        return affinity + self.std * torch.randn_like(affinity) if self.training else affinity

    def extra_repr(self) -> str:
        return f"std={self.std}"


class ChoiceNoise(Balance):
    """Gaussian noise on the gates in training, for the choice alone.

    Draws come from PyTorch's global generator.

    Args:
        std: standard deviation.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def bias(self, candidates: Candidates) -> Tensor | None:
        return self.std * torch.randn_like(candidates.affinity) if self.training else None

    def extra_repr(self) -> str:
        return f"std={self.std}"


def router(
    width: int,
    n_experts: int,
    *,
    tau: float = 0.5,
    temperature: float = 0.5,
    noise: float = 0.1,
    noise_per_expert: bool = False,
    scope: Scope | None = None,
    combine: Combine = "logits",
    max_k: int | None = None,
    momentum: float = 0.99,
    balance: float | None = None,
    faithful: bool = False,
) -> ComposedRouter:
    """Tempered softmax, the experts above a percentile, second softmax.

    Args:
        width: D.
        n_experts: N_l; with 1, every token takes it with weight 1.
        tau: level of the percentile, 0 to 1.
        temperature: T.
        noise: standard deviation of the noise on the gates in training.
        noise_per_expert: divide it by n_experts; the mean gate is 1 / N_l.
        scope: "token" or "batch"; when not given, "token" if `faithful`, else "batch".
        combine: what the second softmax acts on.
        max_k: experts of a token at most, for scope "batch".
        momentum: of the running threshold of scope "batch".
        balance: weight of the load-balance loss; when not given, 0 if `faithful`, else 0.01.
        faithful: defaults of the paper.

    Raises:
        MoEError: an unknown scope or combine, tau out of range, max_k with scope "token".
    """
    scope = scope or ("token" if faithful else "batch")
    balance = (0.0 if faithful else 0.01) if balance is None else balance
    if combine not in ("gates", "logits"):
        raise MoEError(f"combine={combine!r}, expected 'gates' or 'logits'")
    std = noise / n_experts if noise_per_expert else noise
    on_gates = combine == "gates"
    controllers: list[Balance] = [LoadBalanceLoss(balance)] if balance else []
    if std and not on_gates:
        controllers.append(ChoiceNoise(std))
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=SecondSoftmax(temperature=temperature)
        if on_gates
        else Gate(temperature=temperature, normalise=True),
        selection=_selection(scope, n_experts, tau, max_k, momentum),
        balance=controllers,
        transforms=[GateNoise(std)] if std and on_gates else [],
    )


def build(
    shape: Shape,
    *,
    schedule: Kind = "uniform",
    least: int = 1,
    most: float | None = None,
    frequency: float = 2.0,
    power: float = 1.0,
    tau: float = 0.5,
    temperature: float = 0.5,
    noise: float = 0.1,
    noise_per_expert: bool = False,
    scope: Scope | None = None,
    combine: Combine = "logits",
    max_k: int | None = None,
    momentum: float = 0.99,
    balance: float | None = None,
    faithful: bool = False,
    activation: str = "silu",
    gated: bool = True,
) -> list[nn.Module]:
    """Layers whose numbers of experts follow `schedule` and sum to n_layers * n_experts.

    `shape.k` plays no part.
    """
    sizes = expert_schedule(
        shape.n_layers,
        shape.n_layers * shape.n_experts,
        schedule,
        least=least,
        most=most,
        frequency=frequency,
        power=power,
    )
    layers: list[nn.Module] = []
    for size in sizes:
        one = replace(shape, n_layers=1, n_experts=size, k=1)
        layers += routed_stack(
            one,
            lambda _, size=size: router(  # type: ignore[misc]
                shape.width,
                size,
                tau=tau,
                temperature=temperature,
                noise=noise,
                noise_per_expert=noise_per_expert,
                scope=scope,
                combine=combine,
                max_k=None if max_k is None else min(max_k, size),
                momentum=momentum,
                balance=balance,
                faithful=faithful,
            ),
            activation=activation,
            gated=gated,
        )
    return layers


def _selection(
    scope: str, n_experts: int, tau: float, max_k: int | None, momentum: float
) -> Selection:
    if scope == "token":
        if max_k is not None:
            raise MoEError(
                f"max_k={max_k} with scope 'token', which gives every token "
                f"{percentile_fan_out(n_experts, tau)} experts: choose tau instead"
            )
        return TopK(percentile_fan_out(n_experts, tau))
    if scope != "batch":
        raise MoEError(f"scope={scope!r}, expected 'token' or 'batch'")
    if n_experts == 1:
        return TopK(1)
    return AboveQuantile(tau, momentum=momentum, max_k=max_k)
