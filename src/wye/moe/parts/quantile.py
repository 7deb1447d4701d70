"""A running quantile: the threshold that a share of all values passes, known before they come.

Choosing the best share of a batch or of a sequence looks at later tokens and at other samples. A
threshold that was learned from earlier batches does not: it is what makes such a choice causal.

Shape letters: S observations, E columns with a quantile each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wye.moe.base import MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.balance import keep_float32


def quantile(values_SE: Tensor, level: float) -> Tensor:
    """The `level` quantile of every column `[E]`, interpolated linearly between order statistics.

    Unlike `torch.quantile` it takes columns of any length.

    Args:
        values_SE: `[S, E]`, S at least 1.
        level: 0 (smallest) to 1 (largest).

    Example:
        >>> quantile(torch.tensor([[1.0], [2.0], [4.0]]), 0.75).tolist()
        [3.0]
    """
    place = level * (values_SE.shape[0] - 1)
    below = min(math.floor(place + 1e-9), values_SE.shape[0] - 1)
    low = values_SE.kthvalue(below + 1, dim=0).values
    if place - below < 1e-9:
        return low
    high = values_SE.kthvalue(below + 2, dim=0).values
    return torch.lerp(low, high, place - below)


class RunningQuantile(nn.Module):
    """Mean over training batches of the quantile of each column, recent batches counting more.

    Early on it is the plain mean over the batches so far, which a start at zero does not bias.

    Args:
        level: 0 to 1; at 0 every value passes, whatever was observed.
        columns: E.
        momentum: of the running mean once it has seen 1 / (1 - momentum) batches.

    Raises:
        MoEError: a level or momentum out of range, fewer than one column.

    Example:
        >>> running = RunningQuantile(0.5)
        >>> running.observe(torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [2.0]
        >>> running.value.tolist()
        [2.0]
    """

    mean_E: Tensor
    batches: Tensor

    def __init__(self, level: float, *, columns: int = 1, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= level <= 1 or not 0 <= momentum < 1:
            raise MoEError(
                f"level={level} and momentum={momentum}, expected a level in [0, 1] and a momentum "
                "in [0, 1)"
            )
        if not isinstance(columns, int) or isinstance(columns, bool) or columns < 1:
            raise MoEError(f"columns={columns!r}, expected an integer of at least 1")
        self.level, self.momentum = level, momentum
        self.register_buffer("mean_E", torch.zeros(columns))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._used: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """`[E]` the threshold of the moment; -inf at level 0 or before anything was observed."""
        if self.level == 0 or int(self.batches) == 0:
            return torch.full_like(self.mean_E, -math.inf)
        return self.mean_E.clone()

    @torch.no_grad()
    def observe(self, values_SE: Tensor) -> Tensor:
        """The threshold that was known before these values `[S, E]`, which then count.

        The first batch of all gets its own quantile. Recomputation under activation checkpointing
        gets what the pass that it repeats got, and counts nothing.

        Raises:
            MoEError: another number of columns.
        """
        if values_SE.ndim != 2 or values_SE.shape[1] != self.mean_E.shape[0]:
            raise MoEError(
                f"values have shape {tuple(values_SE.shape)}, expected [S, {self.mean_E.shape[0]}]"
            )
        if self._used is not None and recomputing():
            return self._used
        known = self.value
        if values_SE.shape[0]:
            seen = quantile(values_SE.detach().to(self.mean_E.dtype), self.level)
            if int(self.batches) == 0 and self.level > 0:
                known = seen
            self.batches += 1
            share = torch.clamp(1.0 / self.batches, min=1.0 - self.momentum)
            self.mean_E += share * (seen - self.mean_E)
        self._used = known
        return known

    def _apply(self, fn: Any, recurse: bool = True) -> RunningQuantile:
        apply: Callable[..., nn.Module] = super()._apply
        return keep_float32(self, ("mean_E",), lambda: apply(fn, recurse))

    def extra_repr(self) -> str:
        return f"level={self.level}, momentum={self.momentum}"
