"""DeepSeekMoE: many small experts, some of which every token shares.

Token -> its k best of the routed experts, when the token passes the layer, from its hidden state
alone, and always the shared ones. Paper: Dai et al. 2024, arXiv 2401.06066, equations 9 to 14.

    p = softmax(x W_r^T),  S = the m k - K_s largest of the m E - K_s routed experts
    y_t = sum over K_s shared f_s(x_t) + sum_{i in S} p_i f_i(x_t)
    loss = weight * E' sum_i phi_i P_i
Gates are raw probabilities. Weight 0.01 as in the paper's 2B model; its balance over devices, for
expert parallelism, is left out.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.fine_grained import fine_grained, shared_part
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def router(width: int, n_experts: int, *, k: int = 2, weight: float = 0.01) -> ComposedRouter:
    """The routed part: softmax, top k, raw gates, load-balance loss.

    Args:
        width: D.
        n_experts: E, without shared ones.
        k: experts per token, without shared ones.
        weight: of the load-balance loss.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(),
        selection=TopK(k),
        balance=[LoadBalanceLoss(weight)],
    )


def build(
    shape: Shape,
    *,
    split: int = 2,
    n_shared: int = 1,
    weight: float = 0.01,
    gated: bool = True,
    gate_shared: bool = False,
) -> list[nn.Module]:
    """One DeepSeekMoE layer per layer of `shape`, at its parameters and cost per token.

    Args:
        shape: before experts are split.
        split: fine experts made of each.
        n_shared: fine experts that every token uses.
        weight: of the load-balance loss.
        gated: experts are SwiGLU.
        gate_shared: weigh the shared part by a learned sigmoid (Qwen2-MoE).
    """
    fine = fine_grained(shape, split, n_shared)
    return routed_stack(
        fine,
        lambda _: router(fine.width, fine.n_experts, k=fine.k, weight=weight),
        gated=gated,
        make_shared=shared_part(fine, n_shared, gated=gated),
        gate_shared=gate_shared and n_shared > 0,
    )
