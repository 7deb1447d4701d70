"""Top-k with the load-balance loss, the usual way to keep experts busy.

Token -> its k experts of largest softmax probability, when the token passes the layer, from its
hidden state alone. Papers: the loss of Switch (arXiv 2101.03961, equations 4 to 6), for k choices
as in Mixtral and Megatron-LM.

    p = softmax(x W_r^T),  S = the k largest of p,  g_i = p_i / sum_S p for k > 1, p_i for k = 1
    loss = weight * E sum_i phi_i P_i,  phi_i the share of pairs of expert i (sum 1)
Zero-cost experts (`wye.moe.parts.zero_cost`) can stand beside the real ones.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape
from wye.moe.experts import Experts
from wye.moe.layer import MoELayer
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.parts.zero_cost import WithZeroCost, n_zero_cost
from wye.moe.router import ComposedRouter


def router(width: int, n_experts: int, *, k: int = 2, weight: float = 0.01) -> ComposedRouter:
    """Softmax, top k, load-balance loss.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        weight: of the loss.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=k > 1),
        selection=TopK(k),
        balance=[LoadBalanceLoss(weight)],
    )


def build(
    shape: Shape,
    *,
    weight: float = 0.01,
    identity: int = 0,
    zero: int = 0,
    constant: int = 0,
    gated: bool = True,
) -> list[nn.Module]:
    """One such layer per layer of `shape`.

    Args:
        shape: sizes; its experts are the real ones.
        weight: of the loss, which counts zero-cost experts as any other.
        identity, zero, constant: zero-cost experts of each kind, on top.
        gated: experts are SwiGLU.
    """
    extra = n_zero_cost(identity=identity, zero=zero, constant=constant)

    def experts() -> nn.Module:
        real = Experts(shape.n_experts, shape.width, shape.hidden, gated=gated)
        if not extra:
            return real
        return WithZeroCost(real, identity=identity, zero=zero, constant=constant)

    return [
        MoELayer(router(shape.width, shape.n_experts + extra, k=shape.k, weight=weight), experts())
        for _ in range(shape.n_layers)
    ]
