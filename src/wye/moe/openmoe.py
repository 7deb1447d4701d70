"""OpenMoE: two experts per token under a capacity per sequence, beside a dense network always on.

Token -> 2 of E experts, when the token passes the layer, from its hidden state alone; a full expert
turns away the later positions of the same sequence (Xue et al. 2024, arXiv 2402.01739, sections 2
and 3; the routing of ST-MoE, arXiv 2202.08906).
    p = softmax(x W_r^T),  S = the K = 2 largest of p,  g_i = p_i / sum_S p
    y = FFN(x) + sum_{i in S} g_i f_i(x)                       (residual mixture)
    capacity C = max(4, ceil(cf * L * K / E)) per expert and sequence, cf 1.25 in training and 2 in
    evaluation; all first choices before all second ones, each in order of position
    L = L_CE + 0.01 L_b + 1e-4 L_z + 1e-3 mean (logsumexp of the output logits)^2
    L_b = E sum_i m_i P_i,  m_i the share of tokens that chose i,  so that sum m = K
    L_z = mean_t (logsumexp_i z_ti)^2
W_r starts with standard deviation sqrt(0.1 / D) and has no bias.

The balanced value of L_b is K here and 1 in `LoadBalanceLoss`, whose weight is therefore K times
0.01. Our choice where the paper says nothing: gates are divided by their sum, before pairs are
dropped. With a limited capacity in evaluation a second choice can lose its place to the first
choice of a later token, which the declared contracts say; `eval_factor=None` drops nothing.

Shape letters: E experts, D width, K choices, L length.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.moe.base import Contracts, MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.experts import FeedForward
from wye.moe.parts.balance import LoadBalanceLoss, ZLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Capped, TopK
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    factor: float | None = 1.25,
    eval_factor: float | None = 2.0,
    minimum: int = 4,
    balance: float = 0.01,
    z: float = 1e-4,
) -> ComposedRouter:
    """The router of OpenMoE.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        factor: capacity factor in training; None drops nothing.
        eval_factor: in evaluation; None drops nothing, and the router is causal.
        minimum: least capacity.
        balance: weight of L_b.
        z: weight of L_z.
    """
    holds_all = eval_factor is None or eval_factor * k >= n_experts
    return ComposedRouter(
        width,
        LinearScores(width, n_experts, init_std=(0.1 / width) ** 0.5),
        gate=Gate(normalise=k > 1),
        selection=Capped(
            TopK(k), factor=factor, eval_factor=eval_factor, minimum=minimum, group="sequence"
        ),
        balance=[LoadBalanceLoss(balance * k), ZLoss(z)],
        contracts=Contracts(causal=holds_all),
    )


def build(
    shape: Shape,
    *,
    every: int = 1,
    factor: float | None = 1.25,
    eval_factor: float | None = 2.0,
    minimum: int = 4,
    balance: float = 0.01,
    z: float = 1e-4,
    gated: bool = True,
) -> list[nn.Module]:
    """A residual mixture in every `every`-th layer of `shape`, a dense network in the others.

    Args:
        shape: `hidden` is F of an expert and of the dense networks.
        every: 4 in the published Base and 34B models, 6 in 8B.
        factor, eval_factor, minimum, balance, z: as in `router`.
        gated: networks are gated (SwiGLU).

    Raises:
        MoEError: no layer would be routed.
    """
    if not 1 <= every <= shape.n_layers:
        raise MoEError(f"every={every} with {shape.n_layers} layers, expected 1 to that number")

    def dense() -> FeedForward:
        return FeedForward(shape.width, shape.hidden, gated=gated)

    routed = routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            factor=factor,
            eval_factor=eval_factor,
            minimum=minimum,
            balance=balance,
            z=z,
        ),
        gated=gated,
        make_shared=lambda _: dense(),
    )
    return [layer if (i + 1) % every == 0 else dense() for i, layer in enumerate(routed)]


def next_token_and_output_z(model: nn.Module, ids: Tensor, generator: Generator) -> Tensor:
    """Training objective: cross-entropy and 1e-3 times the squared logsumexp of the output logits.

    Args:
        model: ids `[B, L]` to logits `[B, L, V]`.
        ids: `[B, L + 1]`.
        generator: not used.
    """
    logits = model(ids[:, :-1]).flatten(0, 1).float()
    spread = torch.logsumexp(logits, dim=-1).square().mean()
    return F.cross_entropy(logits, ids[:, 1:].flatten()) + 1e-3 * spread
