"""One step of gradient descent on what a group learns, which stops where the loss is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wye.lockstep.base import LockstepError

LARGEST_NORM = 1.0


def descend(
    optimiser: torch.optim.Optimizer,
    learned: Sequence[nn.Parameter],
    loss: Tensor,
    *,
    step: int,
    remedy: str,
) -> float:
    """Take one step down `loss`, with a gradient of norm 1 at most; the loss as a number.

    Args:
        optimiser: of `learned`.
        learned: what the norm is of.
        loss: of this step.
        step: from 0.
        remedy: what to do where the loss is not finite.

    Raises:
        LockstepError: the loss is not finite; nothing was changed.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise LockstepError(f"the loss is {value} in step {step + 1}: {remedy}")
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(learned, LARGEST_NORM)
    optimiser.step()
    return value
