"""Loss-free balancing: a bias per expert, moved by a fixed step after every optimiser step.

Token -> its k experts of largest score plus bias, when the token passes the layer, from its hidden
state alone and the loads of the past steps. Paper: Wang et al. 2024, arXiv 2408.15664, algorithm 1.

    s = sigmoid(x W_r^T),  S = the k largest of s + b
    g_i = s_i / sum_S s     from s alone
    b_i += rate * sign(mean load - load_i)
The bias starts at 0 and carries no gradient; loads are summed over all training passes of the step
and over all processes.

The rate 1e-3 suits scores in [0, 1]. Softmax scores are about 1 / E, and ours is 0.1 / E there.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LossFreeBias
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    affinity: Literal["sigmoid", "softmax"] = "sigmoid",
    rate: float | None = None,
) -> ComposedRouter:
    """Top k of score plus bias.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        affinity: the score.
        rate: of the bias; by default 1e-3 for sigmoid and 0.1 / E for softmax.
    """
    if rate is None:
        rate = 1e-3 if affinity == "sigmoid" else 0.1 / n_experts
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(affinity=affinity, normalise=k > 1),
        selection=TopK(k),
        balance=[LossFreeBias(n_experts, rate)],
    )


def build(
    shape: Shape,
    *,
    affinity: Literal["sigmoid", "softmax"] = "sigmoid",
    rate: float | None = None,
    gated: bool = True,
) -> list[nn.Module]:
    """One loss-free layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(shape.width, shape.n_experts, k=shape.k, affinity=affinity, rate=rate),
        gated=gated,
    )
