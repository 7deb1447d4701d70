"""S-BASE: experts read off an entropic transport plan with equal load.

Token -> its k experts with most transported mass, when the batch passes the layer: in training from
the logits of all tokens of the batch, in evaluation by plain top-k of its own.
Paper: Clark et al. 2022, arXiv 2202.01169, section 3; the gates as in Megatron-LM.

    Pi = diag(u) exp(z / epsilon) diag(v),  rows sum to 1, columns to S / E
    S_t = the k largest entries of Pi_t, chosen without gradient
    g_ti = sigmoid(z_ti) for k = 1, softmax(z_t)_i for k > 1
No loss.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balanced_selections import SinkhornSelection
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.router import ComposedRouter


def router(
    width: int, n_experts: int, *, k: int = 2, epsilon: float = 1.0, rounds: int = 100
) -> ComposedRouter:
    """Sinkhorn in training, top k in evaluation.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        epsilon: weight of the entropy, in the unit of the logits.
        rounds: most iterations.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(affinity="sigmoid" if k == 1 else "softmax"),
        selection=SinkhornSelection(k, epsilon=epsilon, rounds=rounds),
    )


def build(
    shape: Shape, *, epsilon: float = 1.0, rounds: int = 100, gated: bool = True
) -> list[nn.Module]:
    """One Sinkhorn layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(shape.width, shape.n_experts, k=shape.k, epsilon=epsilon, rounds=rounds),
        gated=gated,
    )
