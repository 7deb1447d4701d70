"""Global-batch LBL: the balance loss asks for balance of the corpus, not of every micro-batch.

Token -> its k experts of largest softmax probability, when the token passes the layer, from its
hidden state alone; in training the loads that the loss reads are counted over all micro-batches of
an optimiser step and over all processes, so that experts may specialise by domain.
Paper: Qiu et al. 2025, arXiv 2501.11873.

    p^b_i = mean over micro-batch b of softmax(z)_i          with gradient
    f^b_i = pairs of expert i over all pairs (sum 1)         without
    L_micro  = mean_b E sum_i f^b_i p^b_i
    L_global = E sum_i f_i p_i,  f and p over all micro-batches of the step
    L_micro - L_global = E mean_b sum_i (f^b_i - f_i)(p^b_i - p_i)     for equal micro-batches
`scope="buffer"` reads f off the running counts of the step (the paper's way), "exact" off a pass
before it (`wye.moe.global_batch`). The first micro-batch of a step sees itself alone in the buffer:
shuffle their order.

The weight is not stated in our source; ours is 0.01 per layer, with f that sums to 1.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.gates import Gate
from wye.moe.parts.global_balance import GlobalBalanceLoss, Scope
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    weight: float = 0.01,
    scope: Scope = "buffer",
    local: float = 0.0,
) -> ComposedRouter:
    """Softmax, top k, load-balance loss with a counting scope.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        weight, scope, local: as in `GlobalBalanceLoss`.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=k > 1),
        selection=TopK(k),
        balance=[GlobalBalanceLoss(n_experts, weight, scope=scope, local=local)],
    )


def build(
    shape: Shape,
    *,
    weight: float = 0.01,
    scope: Scope = "buffer",
    local: float = 0.0,
    gated: bool = True,
) -> list[nn.Module]:
    """One such layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(
            shape.width, shape.n_experts, k=shape.k, weight=weight, scope=scope, local=local
        ),
        gated=gated,
    )
