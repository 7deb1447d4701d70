"""BlockFFN: a ReLU router over many small experts, sparse by the chunk (arXiv 2507.08771).

Token -> every expert of positive logit, possibly none, when the token passes the layer, from its
hidden state alone:

    z_t = W_r x_t        a_t = ReLU(z_t)        g_t = a_t / sqrt(mean_i a_ti^2 + eps) * w
    f_i(x) = W_out^i Swish(W_in^i x)            y_t = sum_i g_ti f_i(x_t)

No top-k, no softmax, no balance loss, no capacity. Two losses, means over layers, make neighbouring
tokens use the same experts, so that a chunk of consecutive tokens touches few:

    L = L_lm + lambda_AL L_AL + lambda_CS(t) L_CS

(`wye.moe.parts.sparsity_losses`; lambda_AL 2e-3, beta 100, lambda_CS from 5e-2, chunks of 64),
where lambda_CS follows the ratio of successive values of its loss (`RatioWeight`).
`wye.moe.parts.chunks` runs a chunk on the union of its experts.

Ours: W_r starts at standard deviation 1 / sqrt(D), so that z is about standard normal and half the
experts are active; the lengths of warm-up, stable phase and windows (not in the scripts read); p is
clamped at 0.999, since one active expert would give gradients of 1e5.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import Balance
from wye.moe.parts.gate_norm import RMSNormGate
from wye.moe.parts.gates import Gate
from wye.moe.parts.loss_weight import LossWeight, RatioWeight
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.sparsity_losses import ChunkLoss, LocalityLoss
from wye.moe.parts.thresholds import Positive
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    locality: float = 2e-3,
    beta: float = 100.0,
    detach_target: bool = False,
    sparsity: float | LossWeight = 5e-2,
    chunk: int = 64,
    boundary: int | None = None,
    eps: float = 1e-5,
    init_std: float | None = None,
) -> ComposedRouter:
    """ReLU, RMSNorm, every positive expert; locality and chunk losses.

    Args:
        width: D.
        n_experts: E.
        locality: weight of the locality loss in this layer; 0 leaves it out.
        beta, detach_target: as in `LocalityLoss`.
        sparsity: weight of the chunk loss in this layer, a number or a controller; 0 leaves it out.
        chunk: tokens per chunk.
        boundary: token id that ends a document, if documents are packed into sequences.
        eps: of the norm.
        init_std: of W_r; 1 / sqrt(width) when not given.
    """
    balance: list[Balance] = []
    if locality:
        balance.append(
            LocalityLoss(locality, beta=beta, detach_target=detach_target, boundary=boundary)
        )
    if isinstance(sparsity, LossWeight) or sparsity:
        balance.append(ChunkLoss(sparsity, chunk=chunk, boundary=boundary))
    return ComposedRouter(
        width,
        LinearScores(width, n_experts, init_std=width**-0.5 if init_std is None else init_std),
        gate=Gate(affinity="relu"),
        selection=Positive(),
        balance=balance,
        transforms=[RMSNormGate(n_experts, eps=eps)],
    )


def build(
    shape: Shape,
    *,
    locality: float = 2e-3,
    beta: float = 100.0,
    detach_target: bool = False,
    sparsity: float = 5e-2,
    chunk: int = 64,
    boundary: int | None = None,
    steps: int | None = None,
    activation: str = "silu",
    gated: bool = False,
    init_std: float | None = None,
) -> list[nn.Module]:
    """One BlockFFN layer per layer of `shape`; `shape.k` plays no part.

    Args:
        shape: sizes.
        locality: lambda_AL of the mean over layers.
        sparsity: lambda_CS of the mean over layers, after its warm-up.
        steps: length of the training in optimiser steps; the layers then share a `RatioWeight`
            that adapts lambda_CS, which is constant without.
        beta, detach_target, chunk, boundary, init_std: as in `router`.
        activation, gated: of the experts.
    """
    per_layer = sparsity / shape.n_layers
    weight = per_layer if steps is None or not sparsity else RatioWeight.over(per_layer, steps)
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            locality=locality / shape.n_layers,
            beta=beta,
            detach_target=detach_target,
            sparsity=weight,
            chunk=chunk,
            boundary=boundary,
            init_std=init_std,
        ),
        activation=activation,
        gated=gated,
    )
