"""Weights of auxiliary losses that adapt to what they bring about.

A weight is told what was observed in every training pass, and moves once per optimiser step. One
weight may be shared by the losses of several layers: it then sees the mean over them and moves
once, however many routers report the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wye.moe.base import MoEError
from wye.moe.losses import recomputing


class LossWeight(nn.Module):
    """A weight of a loss; the base is a constant.

    Args:
        initial: its value at the start.

    Raises:
        MoEError: a negative value.

    Attributes:
        value: the weight of the moment.
        steps: optimiser steps so far.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        if not initial >= 0:
            raise MoEError(f"a loss weight of {initial}, expected a number >= 0")
        self.initial = float(initial)
        self.value = float(initial)
        self.steps = 0
        self._sum: Tensor | None = None
        self._count = 0

    def observe(self, value: Tensor) -> None:
        """Count a scalar that was seen in a training pass; recomputation counts nothing."""
        if recomputing():
            return
        seen = value.detach().float()
        self._sum = seen if self._sum is None else self._sum + seen
        self._count += 1

    def after_step(self) -> None:
        """Move, if anything was observed since the last move."""
        if self._sum is None:
            return
        seen = float(self._sum) / self._count
        self._sum, self._count = None, 0
        self.steps += 1
        self.move(seen)

    def move(self, seen: float) -> None:
        """Set `value` for the next step.

        Args:
            seen: mean of what was observed since the last step.
        """

    def state(self) -> Sequence[float]:
        """What `restore` needs besides `value` and `steps`."""
        return ()

    def restore(self, state: Sequence[float]) -> None:
        """Take up what `state` gave."""

    # As extra state the numbers keep their precision whatever dtype the model is cast to.
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.value, self.steps, *self.state()], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        values = state.tolist()
        self.value, self.steps = values[0], int(values[1])
        self.restore(values[2:])

    def extra_repr(self) -> str:
        return f"initial={self.initial}, value={self.value:.3g}"


class RatioWeight(LossWeight):
    """More weight while the loss rises, less while it falls (BlockFFN, arXiv 2507.08771).

    It rises linearly over `warmup` steps, is constant until step `stable`, and is then multiplied,
    window by window, by q = mean loss of the last window / that of the window before: by at least
    `least_growth` where q > 1, and never above `at_most` times the initial value. Each change is
    spread linearly over the next window.

    Args:
        initial: the weight after the warm-up.
        warmup, stable: in optimiser steps; the released scripts do not state them. 2% and 10% of
            the training are our choice, see `over`.
        window: steps per window (ours: 1% of the training).
        at_most: limit, as a multiple of `initial`.
        least_growth: smallest factor where the loss rose.

    Raises:
        MoEError: steps out of order, a window below 1.
    """

    def __init__(
        self,
        initial: float,
        *,
        warmup: int,
        stable: int,
        window: int,
        at_most: float = 4.0,
        least_growth: float = 1.025,
    ) -> None:
        super().__init__(initial)
        if not 0 <= warmup <= stable or window < 1:
            raise MoEError(
                f"warmup={warmup}, stable={stable} and window={window}, expected 0 <= warmup <= "
                "stable and window >= 1"
            )
        self.warmup, self.stable, self.window = warmup, stable, window
        self.at_most, self.least_growth = at_most, least_growth
        self._start = self._goal = self.initial
        self._window_sum = 0.0
        self._last_mean = 0.0
        self._warm()

    @classmethod
    def over(cls, initial: float, steps: int) -> RatioWeight:
        """The weight for a training of `steps` steps: warm-up 2%, stable from 10%, windows 1%."""
        return cls(
            initial,
            warmup=round(0.02 * steps),
            stable=round(0.1 * steps),
            window=max(1, round(0.01 * steps)),
        )

    def move(self, seen: float) -> None:
        if self.steps <= self.stable:
            self._warm()
            return
        place = (self.steps - self.stable - 1) % self.window + 1
        self._window_sum += seen
        self.value = self._start + (self._goal - self._start) * place / self.window
        if place == self.window:
            self._close()

    def _warm(self) -> None:
        if self.steps < self.warmup:
            self.value = self.initial * (self.steps + 1) / self.warmup

    def _close(self) -> None:
        """The end of a window: what the next one moves to."""
        mean = self._window_sum / self.window
        self._start = self._goal
        if self._last_mean > 0:
            q = mean / self._last_mean
            q = max(q, self.least_growth) if q > 1 else q
            self._goal = min(self._goal * q, self.at_most * self.initial)
        self._last_mean, self._window_sum = mean, 0.0

    def state(self) -> Sequence[float]:
        return self._start, self._goal, self._window_sum, self._last_mean

    def restore(self, state: Sequence[float]) -> None:
        self._start, self._goal, self._window_sum, self._last_mean = state


class TargetWeight(LossWeight):
    """Multiplied by alpha in every step in which too much is active, divided by it otherwise.

    The controller of ReMoE's L1 loss (arXiv 2412.14711, section 3.3): what it observes is the share
    of active experts.

    Args:
        target: share of experts that should be active, in (0, 1).
        initial: weight at the start, > 0.
        alpha: > 1.

    Raises:
        MoEError: target, initial or alpha out of range.
    """

    def __init__(self, target: float, *, initial: float = 1e-8, alpha: float = 1.2) -> None:
        super().__init__(initial)
        if not 0 < target < 1 or not initial > 0 or not alpha > 1:
            raise MoEError(
                f"target={target}, initial={initial} and alpha={alpha}, expected a target in "
                "(0, 1), initial > 0 and alpha > 1"
            )
        self.target, self.alpha = target, alpha

    def move(self, seen: float) -> None:
        if seen > self.target:
            self.value *= self.alpha
        elif seen < self.target:
            self.value /= self.alpha


def as_weight(weight: float | LossWeight) -> LossWeight:
    """A number as a constant weight, a weight as it is."""
    return weight if isinstance(weight, LossWeight) else LossWeight(weight)
