"""Dynamic MoE: top-p routing, in which uncertain tokens take more experts (arXiv 2403.07652).

Token -> the smallest set of experts whose softmax probabilities add up to at least p, when the
token passes the layer, from its hidden state alone:

    P = softmax(x W_r^T)                        sorted P_{I_1} >= P_{I_2} >= ...
    t = min {k : sum_{j <= k} P_{I_j} >= p}     S = {I_1, ..., I_t}
    y = sum_{i in S} P_i f_i(x)                 raw probabilities, not renormalised

    L_d = mean_x -sum_i P_i ln P_i              the router's entropy: no compute bought by hedging
    L_b = E sum_i f_i Q_i                       f_i = share of tokens that take i, Q_i = mean P_i
    L = L_lm + alpha L_b + beta L_d             alpha 1e-2, beta 1e-4, p 0.4

sum_i f_i is the mean fan-out, so that L_b falls with it; alone, its gradient flattens P. At p = 1
every expert of positive probability runs.

Ours: W_r starts at standard deviation 0.02 (not stated). The paper caps t nowhere; `max_k` does,
and `renormalise` then keeps the scale of the output.
"""

from __future__ import annotations

from torch import Tensor, nn

from wye.core import load_balance
from wye.moe.build import Shape, routed_stack
from wye.moe.experts import FeedForward
from wye.moe.parts.balance import Balance, EntropyLoss, Routed
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopP
from wye.moe.router import ComposedRouter


class MembershipBalance(Balance):
    """weight * E sum_i f_i Q_i, with f_i the share of tokens whose set holds expert i.

    The load-balance loss of a fixed k divides by the number of pairs; this one does not, and its
    value for a uniform router is the mean fan-out.

    Args:
        weight: alpha.
    """

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        plan = routed.plan
        if plan.n_sources == 0:
            return {}
        fan_out = len(plan) / plan.n_sources
        return {"balance": self.weight * fan_out * load_balance(routed.probabilities, plan)}

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


def router(
    width: int,
    n_experts: int,
    *,
    p: float = 0.4,
    min_k: int = 1,
    max_k: int | None = None,
    renormalise: bool = False,
    alpha: float = 1e-2,
    beta: float = 1e-4,
) -> ComposedRouter:
    """Softmax, top p, membership balance and entropy losses.

    Args:
        width: D.
        n_experts: E.
        p: share of the probability to hold, in (0, 1].
        min_k, max_k: bounds on the experts of a token.
        renormalise: divide the gates of a token by their sum.
        alpha: weight of the balance loss; 0 leaves it out.
        beta: weight of the entropy loss; 0 leaves it out.
    """
    balance: list[Balance] = []
    if alpha:
        balance.append(MembershipBalance(alpha))
    if beta:
        balance.append(EntropyLoss(beta))
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=renormalise),
        selection=TopP(p, min_k=min_k, max_k=max_k),
        balance=balance,
    )


def build(
    shape: Shape,
    *,
    p: float = 0.4,
    min_k: int = 1,
    max_k: int | None = None,
    renormalise: bool = False,
    alpha: float = 1e-2,
    beta: float = 1e-4,
    every: int = 1,
) -> list[nn.Module]:
    """One top-p layer in every `every` layers (the released models: 2), the others dense.

    `shape.k` plays no part. Experts are gated (SwiGLU); layer 0 is routed.
    """
    routed = routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            p=p,
            min_k=min_k,
            max_k=max_k,
            renormalise=renormalise,
            alpha=alpha,
            beta=beta,
        ),
    )
    return [
        layer if index % every == 0 else FeedForward(shape.width, shape.hidden)
        for index, layer in enumerate(routed)
    ]
