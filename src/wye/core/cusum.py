"""CUSUM: has a stream of residuals left the level that it should have?

The two-sided cumulative sum of Page (Biometrika 41, 1954): with residuals r in units of their usual
spread, slack k and threshold h,
    up   <- max(0, up + r - k),    down <- max(0, down - r - k),
and an alarm where either passes h. A shift of 2k or more is found in about h / (shift - k) steps;
without one the mean time to an alarm at k = 0.5, h = 5 is about 930 steps one way for normal
residuals, half of that two-sided (Siegmund's approximation, Sequential Analysis, 1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from wye.core.arrays import SelectionError


@dataclass
class Cusum:
    """Watches one stream of residuals (observed minus predicted) for a lasting shift.

    Args:
        slack: k, shift per step that is let pass, in units of `spread`, >= 0.
        threshold: h, > 0, in units of `spread`.
        spread: usual standard deviation of a residual, > 0.

    Attributes:
        up, down: the two sums, in units of `spread`, >= 0.
        steps: residuals since the last reset.
        alarms: how often a sum passed the threshold, resets included.

    Raises:
        SelectionError: a parameter out of range.

    Example:
        >>> watch = Cusum(slack=0.5, threshold=4.0)
        >>> [watch.update(1.5) for _ in range(5)]
        [False, False, False, False, True]
        >>> watch.direction
        1
    """

    slack: float = 0.5
    threshold: float = 5.0
    spread: float = 1.0
    up: float = field(default=0.0, init=False)
    down: float = field(default=0.0, init=False)
    steps: int = field(default=0, init=False)
    alarms: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slack) and self.slack >= 0):
            raise SelectionError(f"slack is {self.slack}, expected a finite number >= 0")
        for name in ("threshold", "spread"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise SelectionError(f"{name} is {number}, expected a finite number > 0")

    @property
    def direction(self) -> int:
        """1 where the residuals have risen past the threshold, -1 fallen, 0 neither."""
        if max(self.up, self.down) <= self.threshold:
            return 0
        return 1 if self.up >= self.down else -1

    def update(self, residual: float) -> bool:
        """Take one residual; whether the stream is past the threshold after it.

        Raises:
            SelectionError: a residual that is not finite.
        """
        if not math.isfinite(residual):
            raise SelectionError(f"residual is {residual}, expected a finite number")
        was = self.direction
        scaled = residual / self.spread
        self.up = max(0.0, self.up + scaled - self.slack)
        self.down = max(0.0, self.down - scaled - self.slack)
        self.steps += 1
        if was == 0 and self.direction != 0:
            self.alarms += 1
        return self.direction != 0

    def reset(self) -> None:
        """Start both sums anew, after what drifted has been learned again."""
        self.up = self.down = 0.0
        self.steps = 0
