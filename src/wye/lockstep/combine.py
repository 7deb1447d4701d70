"""Log-linear combination: the product of several next-token laws, each to a power.

    log p(v) = sum_i a_i log p_i(v) + constant

Logits and log-probabilities differ by a constant of the row, so that adding logits is the same.
The sum of two laws that agree is sharper than each (as at temperature 1/2): normalise it before it
is a probability, and sample from it at a temperature.

Shape letters: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wye.lockstep.base import LockstepError

FLOOR = -1e4


def log_linear(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Logits of the product, `[..., V]` with the smallest V of those given.

    A logit below -1e4 (a token that a model forbids with -inf) counts as -1e4, so that another
    model can still overrule it. Logits of zero, and a constant added to all, change nothing.

    Args:
        logits: `[..., V]` of every model; those that are longer are cut.
        weights: a_i; 1 each when not given.

    Raises:
        LockstepError: no logits, or as many weights as there are not logits.

    Example:
        >>> a, b = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.0])
        >>> log_linear([a, b]).tolist()
        [2.0, 1.0]
    """
    if not logits or (weights is not None and len(weights) != len(logits)):
        raise LockstepError(
            f"{len(logits)} models and weights={weights}, expected at least one model and one "
            "weight for each"
        )
    size = min(x.shape[-1] for x in logits)
    floored = [x[..., :size].clamp(min=FLOOR) for x in logits]
    if weights is not None:
        floored = [x * a for x, a in zip(floored, weights, strict=True)]
    total = floored[0]
    for x in floored[1:]:
        total = total + x
    return total


def choose_token(
    logits: Tensor, *, temperature: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """One id of each law `[..., V]` -> `[...]`: the most probable, or a draw.

    Args:
        logits: `[..., V]`.
        temperature: 0 takes the most probable, the lower id on a tie; else logits are divided by
            it.
        generator: of the draws; PyTorch's global one when not given.

    Raises:
        LockstepError: a temperature that is negative or not finite, or logits that are NaN.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise LockstepError(f"temperature={temperature}, expected a finite number >= 0")
    if bool(logits.isnan().any()):
        raise LockstepError("logits hold NaN: a model in the group fails on this text")
    if temperature == 0:
        return logits.argmax(dim=-1)
    law = torch.softmax(logits.float() / temperature, dim=-1)
    drawn = torch.multinomial(law.reshape(-1, law.shape[-1]), 1, generator=generator)
    return drawn.reshape(logits.shape[:-1])
