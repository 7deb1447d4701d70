"""DeepSeek-V3: sigmoid scores, groups of experts, loss-free bias, a shared expert.

Token -> its k best experts within its best groups, when the token passes the layer, from its hidden
state alone and the loads of the past steps; always the shared expert.
Paper: arXiv 2412.19437, section 2.1.2, equations 12 to 20.

    s = sigmoid(x W_r^T)
    group score = sum of its 2 best s + b; the best `kept_groups` of `groups` stay
    S = the k largest of s + b within them
    g_i = route_scale s_i / (sum_S s + 1e-20)
    b_i += rate * sign(mean load - load_i) after every optimiser step
    loss = weight * sequence-wise balance, with s over its sum as probability
    y_t = shared(x_t) + sum_S g_i f_i(x_t)
The paper has 256 experts in 8 groups of which 4 stay, k = 8, 1 shared, rate 1e-3 and weight 1e-4;
at the end of training it sets the rate to 0: `controller.rate = 0.0`.

For k = 1 the gate is route_scale s itself, which would otherwise be constant.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LoadBalanceLoss, LossFreeBias
from wye.moe.parts.fine_grained import fine_grained, shared_part
from wye.moe.parts.gates import Gate
from wye.moe.parts.group_limited import GroupLimitedTopK
from wye.moe.parts.scores import LinearScores
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 8,
    groups: int = 1,
    kept_groups: int | None = None,
    route_scale: float = 2.5,
    rate: float = 1e-3,
    weight: float = 1e-4,
) -> ComposedRouter:
    """Sigmoid, group-limited top k, bias, sequence-wise loss.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        groups: of experts, a divisor of E; 8 in the paper.
        kept_groups: groups that a token may use; half of them by default.
        route_scale: multiplies the gates.
        rate: of the bias.
        weight: of the sequence-wise balance loss.
    """
    kept = max(1, groups // 2) if kept_groups is None else kept_groups
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(affinity="sigmoid", normalise=k > 1, scale=route_scale),
        selection=GroupLimitedTopK(k, groups=groups, kept=kept),
        balance=[LossFreeBias(n_experts, rate), LoadBalanceLoss(weight, scope="sequence")],
    )


def build(
    shape: Shape,
    *,
    groups: int = 1,
    kept_groups: int | None = None,
    route_scale: float = 2.5,
    rate: float = 1e-3,
    weight: float = 1e-4,
    split: int = 1,
    n_shared: int = 1,
    gated: bool = True,
) -> list[nn.Module]:
    """One DeepSeek-V3 layer per layer of `shape`.

    Args:
        shape: sizes; its experts are all routed, and the shared ones come on top.
        groups, kept_groups, route_scale, rate, weight: as in `router`.
        split: fine experts made of each routed expert.
        n_shared: experts of the routed ones' width that every token passes.
        gated: experts are SwiGLU.
    """
    fine = fine_grained(shape, split)
    return routed_stack(
        fine,
        lambda _: router(
            fine.width,
            fine.n_experts,
            k=fine.k,
            groups=groups,
            kept_groups=kept_groups,
            route_scale=route_scale,
            rate=rate,
            weight=weight,
        ),
        gated=gated,
        make_shared=shared_part(fine, n_shared, gated=gated),
    )
