"""What frozen experts say of a text, precomputed: enough to learn whom to follow.

Two numbers of every expert at every place: the log-probability of the token that comes, and the
token that the expert would have written. Positions at which the experts would not all write the
same are *informative*; the others teach a router nothing and drown the rest (FusionRoute, arXiv
2601.05106).

Shape letters: B batch, L length, N experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wye.lockstep.base import LockstepError, Member, common_vocabulary
from wye.lockstep.combine import FLOOR


@dataclass(frozen=True)
class ExpertRecord:
    """What N experts say of B texts under teacher forcing.

    Attributes:
        log_probability: `[B, L, N]` of the token that comes, nats.
        best: `[B, L, N]` the most probable token.
    """

    log_probability: Tensor
    best: Tensor

    @property
    def informative(self) -> Tensor:
        """`[B, L]` booleans, where the experts' most probable tokens are not all the same."""
        return (self.best != self.best[..., :1]).any(dim=-1)

    def rows(self, index: Tensor) -> ExpertRecord:
        """The record of some of the texts."""
        return ExpertRecord(self.log_probability[index], self.best[index])


@torch.no_grad()
def record_experts(experts: Sequence[Member], ids: Tensor, *, batch: int = 64) -> ExpertRecord:
    """Let every expert read every text once.

    Args:
        experts: of one vocabulary.
        ids: `[B, L + 1]`; what stands at places 1 to L is what is predicted.
        batch: texts at a time.

    Raises:
        LockstepError: different vocabularies, or texts shorter than 2 tokens.
    """
    size = common_vocabulary(experts)
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise LockstepError(f"ids have shape {tuple(ids.shape)}, expected [B, L + 1] with L >= 1")
    said, best = [], []
    for expert in experts:
        parts = [_record(expert, some, size) for some in torch.split(ids, batch)]
        said.append(torch.cat([p[0] for p in parts]))
        best.append(torch.cat([p[1] for p in parts]))
    return ExpertRecord(torch.stack(said, dim=-1), torch.stack(best, dim=-1))


def routing_loss(
    scores: Tensor,
    record: ExpertRecord,
    *,
    one_hot: bool = False,
    counted: Tensor | None = None,
) -> Tensor:
    """How badly scores point to the right expert, mean over informative positions; 0 without any.

        L_route = - mean_{t in T*} log sum_i softmax(w_t)_i pi_i(y_{t+1} | s_t)

    Args:
        scores: w `[B, L, N]`.
        record: of the same texts.
        one_hot: instead the cross-entropy to the expert that gives the token the most probability,
            the lower index on a tie.
        counted: `[B, L]` booleans; prompt and padding are False.

    Raises:
        LockstepError: shapes that differ.
    """
    if scores.shape != record.log_probability.shape:
        raise LockstepError(
            f"scores have shape {tuple(scores.shape)}, expected "
            f"{tuple(record.log_probability.shape)}, as the record"
        )
    law = torch.log_softmax(scores.float(), dim=-1)
    if one_hot:
        target = record.log_probability.argmax(dim=-1, keepdim=True)
        each = -law.gather(-1, target)[..., 0]
    else:
        each = -torch.logsumexp(law + record.log_probability, dim=-1)
    kept = record.informative if counted is None else record.informative & counted
    return (each * kept).sum() / kept.sum().clamp(min=1)


def routing_accuracy(scores: Tensor, record: ExpertRecord) -> float:
    """Share of informative positions whose best-scored expert is the one that says the token.

    NaN where no position is informative.
    """
    right = scores.argmax(dim=-1) == record.log_probability.argmax(dim=-1)
    return float(right[record.informative].float().mean())


def _record(expert: Member, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    logits = expert.read(ids[:, :-1]).logits[..., :size].float().clamp(min=FLOOR)
    law = torch.log_softmax(logits, dim=-1)
    return law.gather(-1, ids[:, 1:, None])[..., 0], law.argmax(dim=-1)
