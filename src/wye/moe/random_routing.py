"""Random routing: k experts that are drawn, all equally likely; the router that learns nothing.

Token -> k different experts, drawn anew in every training pass; in evaluation fixed by the token's
position, so that a model gives one answer to one input. The control of Roller et al. 2021
(arXiv 2106.04426) and the routing of THOR (arXiv 2110.04260).

    S_t = k draws without replacement from 1..E,  g_ti = 1 / k
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.fixed_selections import UniformSelection, UnscoredRouter


def router(width: int, n_experts: int, *, k: int = 2, seed: int = 0) -> UnscoredRouter:
    """Experts at random.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        seed: of the choice in evaluation.
    """
    return UnscoredRouter(width, n_experts, UniformSelection(k, seed=seed))


def build(shape: Shape, *, seed: int = 0, gated: bool = True) -> list[nn.Module]:
    """One randomly routed layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda index: router(shape.width, shape.n_experts, k=shape.k, seed=seed + index),
        gated=gated,
    )
