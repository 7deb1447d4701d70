"""Selections that balance the choice of a whole batch in training: transport and assignment.

In evaluation both fall back to the plain top k of the logits, where a token depends on itself
alone. The choice is made from the logits without gradient; weights are the affinities of the chosen
pairs, which the gate rule then turns into gates.

Shape letters: S tokens, E experts, K choices.
"""

from __future__ import annotations

from torch import Tensor

from wye.core import Plan, assignment, sinkhorn, top_k, weigh
from wye.moe.base import MoEError
from wye.moe.parts.selection import Candidates, Selection


class SinkhornSelection(Selection):
    """The k experts that hold most of a token's mass in an entropic transport plan.

    Pi = diag(u) exp(z / epsilon) diag(v), rows that sum to 1, columns to S / E (S-BASE,
    arXiv 2202.01169). Balanced is the mass; the choice comes near it.

    Args:
        k: experts per token.
        epsilon: weight of the entropy, in the unit of the logits.
        rounds, tolerance: as in `wye.core.sinkhorn`.

    Raises:
        MoEError: k is no integer of at least 1.
    """

    def __init__(
        self, k: int = 1, *, epsilon: float = 1.0, rounds: int = 100, tolerance: float = 1e-4
    ) -> None:
        super().__init__()
        self.k = self.fan_out = checked_k(k)
        self.epsilon, self.rounds, self.tolerance = epsilon, rounds, tolerance

    def forward(self, candidates: Candidates) -> Plan:
        z = biased_logits(candidates)
        if not self.training:
            return weigh(top_k(z, self.k), candidates.affinity)
        plan = sinkhorn(
            z, self.k, epsilon=self.epsilon, rounds=self.rounds, tolerance=self.tolerance
        )
        return weigh(plan, candidates.affinity)

    def extra_repr(self) -> str:
        return f"k={self.k}, epsilon={self.epsilon}, rounds={self.rounds}"


class AssignmentSelection(Selection):
    """The exact best plan with equal load (BASE layers, arXiv 2103.16716, equation 2).

    maximise sum of z over the pairs; k experts per token, at most ceil(S k / E) tokens per expert,
    which is exactly S k / E where E divides S k. Solved on the host: the Hungarian algorithm for
    k = 1, an integer programme otherwise.

    Args:
        k: experts per token.

    Raises:
        MoEError: k is no integer of at least 1.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = self.fan_out = checked_k(k)

    def forward(self, candidates: Candidates) -> Plan:
        z = biased_logits(candidates)
        plan = assignment(z, self.k) if self.training else top_k(z, self.k)
        return weigh(plan, candidates.affinity)

    def extra_repr(self) -> str:
        return f"k={self.k}"


def checked_k(k: int) -> int:
    """`k` itself; MoEError unless it is an integer of at least 1."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise MoEError(f"k={k!r}, expected an integer of at least 1")
    return k


def biased_logits(candidates: Candidates) -> Tensor:
    """`[S, E]` logits plus bias, without gradient."""
    z = candidates.logits.detach()
    return z if candidates.bias is None else z + candidates.bias
