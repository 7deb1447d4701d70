"""BASE layers: the best assignment in which every expert gets equally many tokens.

Token -> one expert, when the batch passes the layer: in training from the logits of all tokens of
the batch, in evaluation from its own. Paper: Lewis et al. 2021, arXiv 2103.16716.

    training: maximise sum_t z_t,a(t) with S / E tokens per expert, solved exactly
    evaluation: a(t) = argmax z_t
    y_t = sigmoid(z_t,a(t)) f_a(t)(x_t)
No loss. Where E does not divide S no expert gets more than ceil(S / E).

The paper shuffles tokens over its workers before it assigns them, since each worker solves for its
own tokens; here a process solves for all of its tokens at once, and there is nothing to shuffle.
"""

from __future__ import annotations

from torch import nn

from wye.moe.build import Shape, routed_stack
from wye.moe.parts.balanced_selections import AssignmentSelection
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.router import ComposedRouter


def router(width: int, n_experts: int) -> ComposedRouter:
    """Sigmoid gate, balanced assignment of one expert per token.

    Args:
        width: D.
        n_experts: E.
    """
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(affinity="sigmoid"),
        selection=AssignmentSelection(1),
    )


def build(shape: Shape, *, gated: bool = True) -> list[nn.Module]:
    """One BASE layer per layer of `shape`, whose k does not count: k = 1."""
    return routed_stack(shape, lambda _: router(shape.width, shape.n_experts), gated=gated)
