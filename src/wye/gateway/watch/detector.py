"""A change in streams of p-values, found as soon as it can be and rarely where there is none.

Each p-value is bet on at several stakes, in both directions:

    L_t = 1 + s b (2 p_t - 1),    s = +1 or -1,  0 < b < 1
    M_t = max(M_(t-1), 1) L_t                       (e-CUSUM)
    alarm where the average of M_t over all bets and streams passes A

While the p-values are uniform given the past, E[L_t | past] = 1, and the mean number of requests to
an alarm is A or more, however the J streams hang together (J. Shin, A. Ramdas, A. Rinaldo,
E-detectors, arXiv 2203.03532: an average of e-detectors is one). A stream that lacks a p-value bets
nothing on that request.

Shape letters: N requests, J streams, B bets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wye.query.base import FloatArray

STAKES = (0.05, 0.15, 0.4, 0.9)


@dataclass(frozen=True)
class Change:
    """Something that was found.

    Attributes:
        at: requests seen until then.
        since: requests seen when it seems to have begun, where the winning bet last stood at one.
        stream: number of the stream that shows it most.
        up: whether its figures have risen, else fallen.
    """

    at: int
    since: int
    stream: int
    up: bool


class Detector:
    """Watches J streams.

    Args:
        streams: J.
        false_alarm_every: A, mean number of requests to a false alarm, at least; above 1.

    Attributes:
        seen: requests so far.
    """

    def __init__(self, streams: int, false_alarm_every: float) -> None:
        self._streams = streams
        self._level = false_alarm_every
        stakes = np.array(STAKES)
        # [B] signed stakes; a rise of the figures is a rise of their p-values.
        self._bets = np.concatenate([stakes, -stakes])
        self.seen = 0
        self.restart()

    def restart(self) -> None:
        """Forget the past."""
        self._log = np.zeros((self._streams, len(self._bets)))
        self._since = np.full(self._log.shape, self.seen)

    @property
    def evidence(self) -> float:
        """Where the average of the bets stands, as a share of what raises an alarm."""
        return float(np.exp(self._log).mean() / self._level)

    def take(self, p: FloatArray) -> Change | None:
        """Take p-values `[N, J]` in their order; the first change, after which all starts anew.

        What follows the alarm within these N is passed over.
        """
        if not len(p):
            return None
        gain = np.log1p(self._bets * (2.0 * p[:, :, None] - 1.0))
        growth = np.cumsum(np.where(np.isnan(gain), 0.0, gain), axis=0)
        # log M_t = S_t - min over s < t of S_s, the stake before these requests at log max(M, 1).
        before = np.concatenate([np.zeros((1, *growth.shape[1:])), growth[:-1]])
        started = np.maximum(self._log, 0.0)
        floor = np.minimum.accumulate(np.concatenate([-started[None], before[1:]]), axis=0)
        log = growth - floor
        mean = np.exp(np.minimum(log, 700.0)).mean(axis=(1, 2))
        passed = np.flatnonzero(mean > self._level)
        taken = int(passed[0]) + 1 if passed.size else len(p)
        fresh = before[:taken] <= floor[:taken]
        fresh[0] &= self._log <= 0.0
        last = np.where(fresh.any(axis=0), taken - 1 - fresh[::-1].argmax(axis=0), -1)
        self._since = np.where(last >= 0, self.seen + last, self._since)
        self._log = np.asarray(log[taken - 1], np.float64)
        self.seen += taken
        if not passed.size:
            return None
        stream, bet = np.unravel_index(int(self._log.argmax()), self._log.shape)
        change = Change(
            self.seen, int(self._since[stream, bet]), int(stream), bool(self._bets[bet] > 0)
        )
        self.restart()
        return change
