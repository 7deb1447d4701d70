"""Noisy top-k gating: learned noise on the logits, and two losses that even out the experts.

Token -> its k experts of largest noisy logit, when the token passes the layer, from its hidden
state and noise of its own in training; without noise in evaluation.
Paper: Shazeer et al. 2017, arXiv 1701.06538, equations 3 to 5 and 8 to 11.

    h = x W_g + eps (softplus(x W_n) + 0.01),  eps ~ N(0, 1)
    gates = softmax over the k largest h
    importance loss = w_imp CV^2(sum_t g_ti)
    load loss = w_load CV^2(sum_t P_ti),  P_ti = Phi(((x W_g)_ti - H^(k)_ti) / noise_ti)
H^(k)_ti is the k-th largest of the OTHER noisy logits of token t: the (k+1)-th largest of all where
i is chosen, the k-th where it is not. P_ti is the probability that i stays under fresh noise.
CV^2(v) = var(v) / (mean(v)^2 + 1e-10). W_g and W_n start at zero.

Shape letters: S tokens, E experts, K choices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wye.core import shared, squared_variation
from wye.moe.base import MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import Balance, Routed
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import NoisyScores, Scored
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


class ImportanceLoss(Balance):
    """weight * CV^2 of the sums of gates (arXiv 1701.06538, equations 6 and 7)."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        plan = shared(routed.plan)
        total = plan.weight.new_zeros(plan.n_targets).index_add(0, plan.target, plan.weight)
        return {"importance": self.weight * squared_variation(total)}

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class LoadLoss(Balance):
    """weight * CV^2 of the expected loads (arXiv 1701.06538, equations 8 to 11).

    Args:
        k: experts per token, below their number.
        weight: of the loss.
    """

    def __init__(self, k: int, weight: float = 0.1) -> None:
        super().__init__()
        self.k, self.weight = k, weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        stays = stay_probability(routed.scored, self.k)
        return {"load": self.weight * squared_variation(stays.sum(dim=0))}

    def extra_repr(self) -> str:
        return f"k={self.k}, weight={self.weight}"


def stay_probability(scored: Scored, k: int) -> Tensor:
    """P `[S, E]`: how probably each expert is in the top k under fresh noise of its own.

    Args:
        scored: noisy logits with what they are made of.
        k: experts per token, below E.

    Raises:
        MoEError: scores without noise, or k = E, where every expert is always chosen.
    """
    noisy, clean, noise = scored.logits, scored.clean, scored.noise
    if clean is None or noise is None:
        raise MoEError("the load loss needs noisy logits: use NoisyScores")
    if not 1 <= k < noisy.shape[1]:
        raise MoEError(f"k={k} of {noisy.shape[1]} experts, expected fewer than all")
    best = noisy.topk(k + 1, dim=1).values
    inside, outside = best[:, k : k + 1], best[:, k - 1 : k]
    threshold = torch.where(noisy > inside, inside, outside)
    stays: Tensor = torch.special.ndtr((clean - threshold) / noise)
    return stays


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    importance: float = 0.1,
    load: float = 0.1,
    init_std: float = 0.0,
) -> ComposedRouter:
    """Noisy logits, top k, gates from a softmax over the kept, two losses.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        importance: weight of the importance loss.
        load: weight of the load loss; 0 leaves it out, which k = E needs.
        init_std: of W_g and W_n at the start.

    Raises:
        MoEError: a load loss with k = E.
    """
    if load and k >= n_experts:
        raise MoEError(f"k={k} of {n_experts} experts leaves no load to even out: pass load=0")
    balance: list[Balance] = [ImportanceLoss(importance)] if importance else []
    return ComposedRouter(
        width,
        NoisyScores(width, n_experts, init_std=init_std),
        gate=Gate(normalise=True),
        selection=TopK(k),
        balance=[*balance, LoadLoss(k, load)] if load else balance,
    )


def build(
    shape: Shape,
    *,
    importance: float = 0.1,
    load: float = 0.1,
    init_std: float = 0.0,
    gated: bool = True,
) -> list[nn.Module]:
    """One noisy top-k layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            importance=importance,
            load=load,
            init_std=init_std,
        ),
        gated=gated,
    )
