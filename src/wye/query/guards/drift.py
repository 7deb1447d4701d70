"""A rising share of rejected queries: traffic has left the domains that the guard learned.

Page's cumulative sum (`wye.core.Cusum`) of the log-likelihood ratio between the usual rate p0 and a
raised rate p1 of rejections r:

    s <- max(0, s + r log(p1 / p0) + (1 - r) log((1 - p1) / (1 - p0)))      alarm where s > log A

Divided by the log odds ratio of p1 against p0 this is the sum of r - k of `Cusum`. At the usual
rate the mean number of queries to an alarm is A or more (Lorden, Annals of Mathematical Statistics
42, 1971).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from wye.core import Cusum
from wye.query.base import RouterError


class RejectionWatch:
    """Watches the rate of rejections for a lasting rise.

    Args:
        rate: p0, the usual share, above 0 and below 1; for instance that of held-out queries.
        rise: how much more is to be found, p1 = p0 + rise below 1.
        false_alarm_every: A, queries.

    Attributes:
        seen, rejected: counts since the start.

    Raises:
        RouterError: a parameter is out of range.

    Example:
        >>> watch = RejectionWatch(0.05, rise=0.2, false_alarm_every=1000)
        >>> watch.update([False] * 50), watch.update([True] * 5)
        (False, True)
    """

    def __init__(
        self, rate: float, *, rise: float = 0.1, false_alarm_every: float = 10_000.0
    ) -> None:
        if not (0 < rate < 1 and rise > 0 and rate + rise < 1 and false_alarm_every > 1):
            raise RouterError(
                f"rate is {rate}, rise {rise}, false_alarm_every {false_alarm_every}; expected a "
                "rate above 0 whose sum with a positive rise is below 1, and more than 1 query"
            )
        raised = rate + rise
        odds = math.log(raised * (1 - rate) / (rate * (1 - raised)))
        level = math.log((1 - rate) / (1 - raised)) / odds
        self.rate = rate
        self.rise = rise
        self.seen = 0
        self.rejected = 0
        self._sum = Cusum(slack=level - rate, threshold=math.log(false_alarm_every) / odds)

    @property
    def alarm(self) -> bool:
        """Whether the rate has risen."""
        return self._sum.up > self._sum.threshold

    def update(self, rejected: Iterable[bool]) -> bool:
        """Take what happened to queries, in their order; whether the rate has risen."""
        for one in rejected:
            self.seen += 1
            self.rejected += bool(one)
            self._sum.update(float(bool(one)) - self.rate)
        return self.alarm

    def reset(self) -> None:
        """Start anew, after the guard has learned the traffic that came."""
        self._sum.reset()
