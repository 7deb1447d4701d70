"""ProMoE: image tokens go by a rule for unlabelled samples, else to the nearest prototype.

Token of a diffusion transformer -> expert, when the token passes the layer, from the label of its
sample and its own hidden state (Wei et al. 2025, arXiv 2510.24711).

Step 1, a rule: a sample whose label is the null class (dropped for guidance) sends all its tokens
to the unconditional expert, with weight 1.
Step 2, prototypes c_1..c_N, for all other tokens h_t:
    s_ti = cos(h_t, c_i),  g = s, sigmoid(s) or softmax(s)
    token choice    y_t = sum_{i in top-k} g_ti E_i(h_t) + E_shared(h_t)
    expert choice   every expert takes the c = clamp(floor(S k / N), 1, S) tokens of a sample with
                    the largest s
No renormalisation: a single kept gate would become 1 and leave the router without gradient.
Routing contrastive loss, over the labelled tokens, m_i the mean of the tokens of expert i, V the
experts that have any:
    L = -(1/|V|) sum_{i in V} log [ exp(cos(c_i, m_i)/T) / sum_{j in V} exp(cos(c_i, m_j)/T) ]
and no balance loss. In the expert-choice variant m_i is taken per sample.

Expert N (the last one of the plan) is the unconditional one.

Shape letters: S tokens, E experts (N prototypes and the unconditional one), B batch, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, SelectionError, expert_choice, top_k, weigh
from wye.moe.base import Context, Contracts, MoEError, Router, Routing
from wye.moe.build import Shape, routed_stack
from wye.moe.experts import FeedForward
from wye.moe.parts.scores import CosineScores

Weight = Literal["identity", "sigmoid", "softmax"]
Choice = Literal["token", "expert"]


class PrototypeRouter(Router):
    """A rule by label, then the nearest of N prototypes.

    Args:
        width: D.
        n_experts: E = N + 1.
        null_label: label of a sample without label; its tokens go to expert N.
        k: experts per labelled token (in the mean, for expert choice).
        weight: gate as a function of the cosine.
        choice: who chooses. Expert choice looks at all tokens of a sample.
        contrast: weight of the routing contrastive loss.
        temperature: T of that loss.

    Raises:
        MoEError: fewer than 2 experts, or an unknown weight or choice.
    """

    def __init__(
        self,
        width: int,
        n_experts: int,
        *,
        null_label: int,
        k: int = 1,
        weight: Weight = "identity",
        choice: Choice = "token",
        contrast: float = 1.0,
        temperature: float = 0.07,
    ) -> None:
        super().__init__(width, n_experts)
        if n_experts < 2:
            raise MoEError(
                f"n_experts={n_experts}, expected at least 2: one with a prototype and the "
                "unconditional one"
            )
        if weight not in ("identity", "sigmoid", "softmax") or choice not in ("token", "expert"):
            raise MoEError(
                f"weight={weight!r} and choice={choice!r}, expected 'identity', 'sigmoid' or "
                "'softmax' and 'token' or 'expert'"
            )
        if not 1 <= k <= n_experts - 1:
            raise MoEError(f"k={k} with {n_experts - 1} prototypes, expected 1 to that number")
        self.scores = CosineScores(width, n_experts - 1)
        self.null_label, self.k = null_label, k
        self.weight, self.choice = weight, choice
        self.contrast, self.temperature = contrast, temperature
        self.contracts = Contracts(causal=choice == "token", padding=choice == "token")

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        with torch.autocast(x_SD.device.type, enabled=False):
            return self._route(x_SD, context)

    def _route(self, x_SD: Tensor, context: Context) -> Routing:
        labels = context.need("labels", "ProMoE")
        if tuple(labels.shape) != (context.batch,):
            raise MoEError(
                f"labels have shape {tuple(labels.shape)}, expected one for each of the "
                f"{context.batch} samples"
            )
        sequence = context.sequence(x_SD.device)
        unlabelled = (labels.to(x_SD.device) == self.null_label)[sequence]
        cosine = self.scores(x_SD, context).logits
        gates = self._gates(cosine)
        mine = (~unlabelled).nonzero(as_tuple=True)[0]
        others = unlabelled.nonzero(as_tuple=True)[0]
        chosen = self._choose(cosine[mine], sequence[mine])
        if bool(torch.isnan(cosine).any()):
            raise SelectionError("the hidden states hold NaN: look at what enters the layer")
        affinity = torch.cat([gates, torch.zeros_like(gates[:, :1])], dim=1)
        affinity = torch.where(
            unlabelled[:, None], F.one_hot(_last(affinity), self.n_experts).float(), affinity
        )
        plan = Plan(
            torch.cat([mine[chosen.source], others]),
            torch.cat([chosen.target, _last(affinity)[others]]),
            torch.ones(len(chosen) + others.shape[0], device=x_SD.device),
            x_SD.shape[0],
            self.n_experts,
        )
        losses = {}
        if self.training and self.contrast > 0:
            labelled = replace(chosen, source=mine[chosen.source], n_sources=x_SD.shape[0])
            losses["contrast"] = self.contrast * self.contrastive_loss(x_SD, labelled, sequence)
        closed = torch.full_like(cosine[:, :1], -torch.inf)
        return Routing(
            weigh(plan, affinity), torch.cat([cosine, closed], dim=1), affinity, losses, None
        )

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return weigh(plan, routing.probabilities)

    def contrastive_loss(self, x_SD: Tensor, plan: Plan, sequence: Tensor) -> Tensor:
        """L of the module's docstring; 0 where fewer than two experts have tokens.

        Args:
            x_SD: `[S, D]`.
            plan: pairs of labelled tokens and prototypes.
            sequence: `[S]` sample of every token.
        """
        n = self.n_experts - 1
        group, n_groups = plan.target, 1
        if self.choice == "expert":
            group, n_groups = group + n * sequence[plan.source], int(sequence.max()) + 1
        total = torch.zeros((n_groups * n, x_SD.shape[1]), device=x_SD.device)
        total = total.index_add(0, group, x_SD.float()[plan.source])
        count = torch.bincount(group, minlength=n_groups * n)
        return self._contrast(total.reshape(n_groups, n, -1), count.reshape(n_groups, n))

    def _contrast(self, total_GND: Tensor, count_GN: Tensor) -> Tensor:
        """Mean over the groups in which two experts or more have tokens."""
        some = count_GN > 0
        enough = some.sum(dim=1) >= 2
        some, total_GND = some[enough], total_GND[enough]
        if some.shape[0] == 0:
            return total_GND.sum()
        # The direction of a mean is that of the sum.
        means = F.normalize(total_GND, dim=-1)
        anchors = F.normalize(self.scores.prototypes.float(), dim=-1)
        logits = torch.einsum("nd,gmd->gnm", anchors, means) / self.temperature
        logits = logits.masked_fill(~some[:, None, :], -torch.inf)
        each = torch.logsumexp(logits, dim=-1) - logits.diagonal(dim1=1, dim2=2)
        return (torch.where(some, each, 0.0).sum(dim=1) / some.sum(dim=1)).mean()

    def _gates(self, cosine: Tensor) -> Tensor:
        if self.weight == "sigmoid":
            return torch.sigmoid(cosine)
        return torch.softmax(cosine, dim=-1) if self.weight == "softmax" else cosine

    def _choose(self, cosine: Tensor, sequence: Tensor) -> Plan:
        if self.choice == "token":
            return top_k(cosine, self.k)
        n = self.n_experts - 1
        parts = []
        for b in torch.unique(sequence).tolist():
            own = (sequence == b).nonzero(as_tuple=True)[0]
            capacity = min(max(own.shape[0] * self.k // n, 1), own.shape[0])
            part = expert_choice(cosine[own], capacity)
            parts.append((own[part.source], part.target, part.weight))
        empty = sequence.new_zeros(0)
        source, target, weight = (
            (torch.cat(column) for column in zip(*parts, strict=True))
            if parts
            else (empty, empty, cosine.new_zeros(0))
        )
        return Plan(source, target, weight, cosine.shape[0], n)


def router(
    width: int,
    n_experts: int,
    *,
    null_label: int = 10,
    k: int = 1,
    weight: Weight = "identity",
    choice: Choice = "token",
    contrast: float = 1.0,
    temperature: float = 0.07,
) -> PrototypeRouter:
    """A `PrototypeRouter`; layers that hold it must be called with `labels`."""
    return PrototypeRouter(
        width,
        n_experts,
        null_label=null_label,
        k=k,
        weight=weight,
        choice=choice,
        contrast=contrast,
        temperature=temperature,
    )


def build(
    shape: Shape,
    *,
    null_label: int = 10,
    weight: Weight = "identity",
    choice: Choice = "token",
    contrast: float = 1.0,
    temperature: float = 0.07,
) -> list[nn.Module]:
    """N = `shape.n_experts` routed experts, an unconditional and a shared one per layer.

    All are plain two-layer perceptrons with GELU (its tanh form); the dense layer of equal cost has
    twice their hidden width.
    """
    experts = Shape(
        n_layers=shape.n_layers,
        width=shape.width,
        hidden=shape.hidden,
        n_experts=shape.n_experts + 1,
        k=shape.k,
    )
    return routed_stack(
        experts,
        lambda _: router(
            shape.width,
            shape.n_experts + 1,
            null_label=null_label,
            k=shape.k,
            weight=weight,
            choice=choice,
            contrast=contrast,
            temperature=temperature,
        ),
        gated=False,
        activation="gelu_tanh",
        make_shared=lambda _: FeedForward(
            shape.width, shape.hidden, gated=False, activation="gelu_tanh"
        ),
    )


def _last(affinity: Tensor) -> Tensor:
    """The index of the unconditional expert, once per token."""
    return torch.full(
        (affinity.shape[0],), affinity.shape[1] - 1, dtype=torch.int64, device=affinity.device
    )
