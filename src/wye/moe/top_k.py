"""Plain top-k routing without balance: the baseline that every other system is held against.

Token -> its k experts of largest softmax probability, when the token passes the layer, from its
hidden state alone (Shazeer et al. 2017, arXiv 1701.06538, without noise; Mixtral with
normalise=True):
    p = softmax(x W_r^T),  S = the k largest of p,  g_i = p_i / sum_S p (normalise) or p_i.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def router(
    width: int, n_experts: int, *, k: int = 2, normalise: bool | None = None
) -> ComposedRouter:
    """Softmax, top k, no balance controller.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        normalise: divide the k gates by their sum; by default where k > 1.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=k > 1 if normalise is None else normalise),
        selection=TopK(k),
    )


def build(shape: Shape, *, normalise: bool | None = None, gated: bool = True) -> list[nn.Module]:
    """One top-k layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(shape.width, shape.n_experts, k=shape.k, normalise=normalise),
        gated=gated,
    )
