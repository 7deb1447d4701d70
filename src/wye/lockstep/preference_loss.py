"""CDPO, complemented preference optimisation: DPO on the policy that another model completes.

    s(y)   = sum_t [ log pi_final(y_t+1 | s_t) - log pi_ref(y_t+1 | s_t) ]
    L_CDPO = - E log sigmoid( beta (s(y+) - s(y-)) )

pi_final is the law of the whole group, of which the router alone is trained; pi_ref is the same
before. Where the expert already orders a pair rightly the sigmoid is flat and the router is left
alone; where it orders it wrongly the router learns to step in. FusionRoute (arXiv 2601.05106) after
DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7). The normaliser of pi_final is kept, which
is our choice: the source that could be read does not say.

Shape letters: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.lockstep.base import LockstepError


def sequence_log_probability(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Log-probability `[B]` of the counted targets under normalised logits, in nats.

    Args:
        logits: `[B, L, V]`.
        targets: `[B, L]` the id behind each place.
        counted: `[B, L]` booleans; prompt and padding are False.

    Raises:
        LockstepError: shapes that do not match.
    """
    if logits.shape[:-1] != targets.shape or counted.shape != targets.shape:
        raise LockstepError(
            f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)} and counted "
            f"{tuple(counted.shape)}, expected [B, L, V], [B, L] and [B, L]"
        )
    law = torch.log_softmax(logits.float(), dim=-1)
    said = law.gather(-1, targets.masked_fill(~counted, 0)[..., None])[..., 0]
    return (said * counted).sum(dim=-1)


def complemented_dpo(
    preferred: Tensor,
    rejected: Tensor,
    reference_preferred: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """L_CDPO, a scalar, from log-probabilities `[B]` of whole answers.

    Args:
        preferred, rejected: under the policy; gradients flow to them.
        reference_preferred, reference_rejected: under the reference; no gradient.
        beta: > 0; small values let the policy go farther from the reference.

    Raises:
        LockstepError: shapes that differ, an empty batch, or beta not positive.

    Example:
        >>> zero = torch.zeros(1)
        >>> round(float(complemented_dpo(zero, zero, zero, zero)), 4)
        0.6931
    """
    parts = (preferred, rejected, reference_preferred, reference_rejected)
    if len({tuple(p.shape) for p in parts}) > 1 or not preferred.numel():
        raise LockstepError(
            f"log-probabilities have shapes {[tuple(p.shape) for p in parts]}, expected one shape "
            "[B] with B >= 1"
        )
    if not (math.isfinite(beta) and beta > 0):
        raise LockstepError(f"beta={beta}, expected a finite number > 0")
    margin = (preferred - reference_preferred.detach()) - (rejected - reference_rejected.detach())
    return -F.logsigmoid(beta * margin).mean()
