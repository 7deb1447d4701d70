"""Expert choice: every expert takes its best tokens, so that the load is balanced by construction.

Experts choose tokens, when a batch passes the layer, from the hidden states of all its tokens:
later ones included, hence for encoders and diffusion models only.
Paper: Zhou et al. 2022, arXiv 2202.09368, section 3.2.

    S = softmax over experts (x W_r^T)
    expert i takes the c = floor(n k / E) tokens of its group with the largest S[:, i]
    y_t = sum of S_ti f_i(x_t) over the experts that took t: none to all of them, k on average
No renormalisation, no loss. The group is the batch, or each sequence by itself.

Ours: c is at least 1 and at most n.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from wye.core import Plan, expert_choice, weigh
from wye.moe.base import Contracts, MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Candidates, Selection
from wye.moe.parts.sequence_choice import SequenceChoice
from wye.moe.router import ComposedRouter

Group = Literal["batch", "sequence"]
WITHIN_SEQUENCES = Contracts(causal=False, batch_invariant=True, padding=True)
ACROSS_THE_BATCH = Contracts(causal=False, batch_invariant=False, padding=True)


class BatchChoice(Selection):
    """Every expert takes its best tokens of the whole batch; weights are their affinities.

    Args:
        k: experts per token on average, > 0.

    Raises:
        MoEError: k not positive.
    """

    def __init__(self, k: float) -> None:
        super().__init__()
        if not k > 0:
            raise MoEError(f"k={k}, expected a number > 0")
        self.mean_k = k

    def forward(self, candidates: Candidates) -> Plan:
        n_tokens, n_experts = candidates.affinity.shape
        plan = expert_choice(candidates.ranked, self.capacity(n_tokens, n_experts))
        return weigh(plan, candidates.affinity)

    def capacity(self, n_tokens: int, n_experts: int) -> int:
        """Tokens per expert, c."""
        return min(max(1, int(n_tokens * self.mean_k / n_experts + 1e-9)), max(n_tokens, 1))

    def extra_repr(self) -> str:
        return f"k={self.mean_k}"


def router(
    width: int, n_experts: int, *, k: float = 2, group: Group = "sequence"
) -> ComposedRouter:
    """Softmax over experts, every expert takes its best tokens.

    Args:
        width: D.
        n_experts: E.
        k: experts per token on average.
        group: "sequence", within each; "batch", over all.

    Raises:
        MoEError: an unknown group, k not positive.
    """
    if group not in ("batch", "sequence"):
        raise MoEError(f"group={group!r}, expected 'batch' or 'sequence'")
    within = group == "sequence"
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(),
        selection=SequenceChoice(k) if within else BatchChoice(k),
        contracts=WITHIN_SEQUENCES if within else ACROSS_THE_BATCH,
    )


def build(
    shape: Shape, *, k: float | None = None, group: Group = "sequence", gated: bool = True
) -> list[nn.Module]:
    """One expert-choice layer per layer of `shape`; k is that of the shape unless given."""
    mean = shape.k if k is None else k
    return routed_stack(
        shape, lambda _: router(shape.width, shape.n_experts, k=mean, group=group), gated=gated
    )
