"""Switch: every token goes to one expert, and an expert takes only so many.

Token -> the expert of largest softmax probability, when the token passes the layer, from its
hidden state alone; a full expert lets later tokens of the batch pass by the residual only.
Paper: Fedus, Zoph and Shazeer 2021, arXiv 2101.03961.

    p = softmax(x~ W_r^T),  x~ = x * U(1 - jitter, 1 + jitter) in training
    y_t = p_i f_i(x_t),  i = argmax p_t
    C = ceil(capacity S / E) tokens per expert, first come first served
    loss = weight * E sum_i phi_i P_i
W_r starts from a truncated normal of variance 0.1 / D.

Ours: no capacity in evaluation by default, so that a token never depends on its batch mates; the
paper's is `eval_capacity=2.0`.
"""

from __future__ import annotations

from torch import nn

from wye.moe.base import Contracts
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balance import LoadBalanceLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Capped, TopK
from wye.moe.router import ComposedRouter

CAPPED_IN_EVALUATION = Contracts(causal=True, batch_invariant=False, padding=False)
"""Places are taken in order of position: later tokens of the same sequence never push out earlier
ones, while the sequences before it in the batch do."""


def router(
    width: int,
    n_experts: int,
    *,
    capacity: float | None = 1.25,
    eval_capacity: float | None = None,
    jitter: float = 0.01,
    weight: float = 0.01,
) -> ComposedRouter:
    """One expert per token, gate p, capacity, load-balance loss.

    Args:
        width: D.
        n_experts: E.
        capacity: factor in training; None for no limit.
        eval_capacity: factor in evaluation; None for no limit.
        jitter: of the router's input in training.
        weight: of the load-balance loss.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts, init_scale=0.1, jitter=jitter),
        gate=Gate(),
        selection=Capped(TopK(1), factor=capacity, eval_factor=eval_capacity),
        balance=[LoadBalanceLoss(weight)],
        contracts=None if eval_capacity is None else CAPPED_IN_EVALUATION,
    )


def build(
    shape: Shape,
    *,
    capacity: float | None = 1.25,
    eval_capacity: float | None = None,
    jitter: float = 0.01,
    weight: float = 0.01,
    gated: bool = True,
) -> list[nn.Module]:
    """One Switch layer per layer of `shape`, whose k does not count: k = 1."""
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            capacity=capacity,
            eval_capacity=eval_capacity,
            jitter=jitter,
            weight=weight,
        ),
        gated=gated,
    )
