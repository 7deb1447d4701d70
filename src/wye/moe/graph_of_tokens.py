"""Graph of Tokens: a token routes as the tokens that it resembles, or attends to, do.

Token -> its k experts, when the token passes the layer, from the routing scores of all tokens of
its sequence (Nguyen et al. 2025, arXiv 2505.00792; an earlier version was called Mutual-Inform
SMoE). Written from the abstracts alone; the formulas are ours. With r_j = softmax(W u_j) and a
latent token d_i that token i asks, p(d_i = j) = S_ij:
    p(e_i = k) = sum_j S_ij r_jk,    R' = (1 - rho) R + rho S R
    attention    S = sum_h pi_h A^h, the attention before the layer, pi uniform or learned
    similarity   S_ij = softmax_j( (Q u_i)^T (K u_j) / (sqrt(64) tau) )
    cosine       S_ij = softmax_j( cos(u_i, u_j) / 0.1 )
then the k largest of R'_i, gates their R' divided by their sum; experts read u_i. The balance loss
(0.01) reads R', which is what routes.

Ours: rho = 0.5, since rho = 1 erases what a token itself says; without the first token's column in
causal models, since attention uses it as a sink and all would route as it does. Smoothing does not
as such lower the entropy of routing: `wye.core.entropy_bounds` says what it can do.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from wye.moe.base import Contracts, MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.parts.token_graph import (
    AttentionGraph,
    CosineGraph,
    GraphSmoothing,
    SimilarityGraph,
    TokenGraph,
)
from wye.moe.router import ComposedRouter

Graph = Literal["similarity", "attention", "cosine"]


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    graph: Graph = "similarity",
    share: float = 0.5,
    learn_share: bool = False,
    rank: int = 64,
    learned_heads: int | None = None,
    temperature: float = 0.1,
    causal: bool = True,
    drop_first: bool | None = None,
    balance_weight: float = 0.01,
) -> ComposedRouter:
    """Softmax, smoothing, top k.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        graph: "attention" needs a model that hands its layers the attention weights.
        share: rho.
        learn_share: train rho from there.
        rank: of Q and K.
        learned_heads: H, to learn pi; uniform when not given.
        temperature: of the cosine graph.
        causal, drop_first: as in `GraphSmoothing`.
        balance_weight: of the load-balance loss; 0 for none.

    Raises:
        MoEError: an unknown graph, a share out of range.
    """
    made: TokenGraph
    if graph == "attention":
        made = AttentionGraph(learned_heads)
    elif graph == "similarity":
        made = SimilarityGraph(width, rank=rank)
    elif graph == "cosine":
        made = CosineGraph(temperature)
    else:
        raise MoEError(f"graph={graph!r}, expected 'similarity', 'attention' or 'cosine'")
    smoothing = GraphSmoothing(
        made, share=share, learn_share=learn_share, causal=causal, drop_first=drop_first
    )
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=k > 1),
        selection=TopK(k),
        balance=[LoadBalanceLoss(balance_weight)] if balance_weight else [],
        transforms=[smoothing],
        contracts=Contracts(causal=causal),
    )


def build(
    shape: Shape,
    *,
    graph: Graph = "similarity",
    share: float = 0.5,
    learn_share: bool = False,
    rank: int = 64,
    learned_heads: int | None = None,
    temperature: float = 0.1,
    causal: bool = True,
    drop_first: bool | None = None,
    balance_weight: float = 0.01,
    gated: bool = True,
) -> list[nn.Module]:
    """One smoothed layer per layer of `shape`.

    Args:
        shape: sizes.
        graph, share, learn_share, rank, learned_heads, temperature, causal, drop_first,
            balance_weight: as in `router`.
        gated: experts are gated.
    """
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            graph=graph,
            share=share,
            learn_share=learn_share,
            rank=rank,
            learned_heads=learned_heads,
            temperature=temperature,
            causal=causal,
            drop_first=drop_first,
            balance_weight=balance_weight,
        ),
        gated=gated,
    )
