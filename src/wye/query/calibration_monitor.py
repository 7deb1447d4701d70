"""Is what the router predicts still what comes out? A monitor with a known rate of false alarms.

It takes pairs of predicted and observed quality as they come. While the router is calibrated, that
is, while E[observed - predicted | past] lies within +-tolerance, each bet

    L_t = 1 + s b (y_t - p_t) - b tolerance,    s = +1 or -1,  0 < b <= 1 / (1 + tolerance)

multiplies a stake by 1 on average at most. The e-detector of Shin, Ramdas and Rinaldo (arXiv
2203.03532, e-CUSUM) runs each bet as M_t = max(M_(t-1), 1) L_t and averages over bets; an alarm is
raised where the average passes A. By their theorem the mean time to a false alarm is A pairs or
more, for any distribution of qualities from 0 to 1 and however the queries are chosen: no model of
the noise is needed, unlike with a plain CUSUM (`wye.core.Cusum`).

Shape letters: N pairs, B bets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wye.query.arguments import check_data
from wye.query.base import FloatArray, RouterError

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import QueryRouter
    from wye.query.policy import Policy

STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Alarm:
    """A loss of calibration.

    Attributes:
        at: pairs seen until it was raised.
        since: pairs seen when it seems to have begun (where the winning bet last stood at one).
        gap: mean observed minus predicted since then; below 0 where the router promises too much.
    """

    at: int
    since: int
    gap: float

    def __str__(self) -> str:
        does = "promises too much" if self.gap < 0 else "promises too little"
        return (
            f"after {self.at} outcomes: since about outcome {self.since} the router {does}, by "
            f"{abs(self.gap):.3f} of quality on average; train it again"
        )


@dataclass
class CalibrationMonitor:
    """Watches (predicted, observed) qualities for a lasting difference.

    Args:
        false_alarm_every: mean number of pairs to a false alarm, at least; above 1.
        tolerance: mean difference that counts as calibrated, 0 to below 1. A router is never
            calibrated to the last digit, and without any tolerance a long enough stream shows it.

    Attributes:
        seen: pairs so far.
        alarms: all alarms so far; after each the monitor starts anew.

    Raises:
        RouterError: a parameter out of range.

    Example:
        >>> monitor = CalibrationMonitor(false_alarm_every=1000)
        >>> raised = monitor.update([0.9] * 60, [0.0, 1.0] * 30)
        >>> len(raised) >= 1 and raised[0].gap < 0
        True
    """

    false_alarm_every: float = 10_000.0
    tolerance: float = 0.02
    seen: int = field(default=0, init=False)
    alarms: list[Alarm] = field(default_factory=list, init=False)
    # Of each bet: log M; pairs seen when it last stood at one; sum of observed - predicted since.
    _log: FloatArray = field(init=False, repr=False)
    _since: NDArray[np.intp] = field(init=False, repr=False)
    _sum: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.false_alarm_every) and self.false_alarm_every > 1):
            raise RouterError(
                f"false_alarm_every is {self.false_alarm_every}, expected a number above 1"
            )
        if not 0.0 <= self.tolerance < 1.0:
            raise RouterError(f"tolerance is {self.tolerance}, expected 0 to below 1")
        stakes = np.array(STAKES) / (1.0 + self.tolerance)
        self._stakes = np.concatenate([stakes, stakes])
        self._signs = np.repeat([1.0, -1.0], len(STAKES))
        self._restart()

    @property
    def evidence(self) -> float:
        """Where the average of the bets stands, as a share of what raises an alarm."""
        return float(np.exp(self._log).mean() / self.false_alarm_every)

    @property
    def words(self) -> str:
        """What was found, in a sentence."""
        if self.alarms:
            return f"calibration was lost {len(self.alarms)} times; first {self.alarms[0]}"
        return (
            f"no loss of calibration found in {self.seen} outcomes (tolerance "
            f"{self.tolerance:g}, a false alarm in {self.false_alarm_every:g} or more; evidence at "
            f"{self.evidence:.2g} of what raises one)"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "seen": self.seen,
            "false_alarm_every": self.false_alarm_every,
            "tolerance": self.tolerance,
            "evidence": self.evidence,
            "alarms": [{"at": a.at, "since": a.since, "gap": a.gap} for a in self.alarms],
        }

    def update(self, predicted: ArrayLike, observed: ArrayLike) -> list[Alarm]:
        """Take one pair or many, in the order in which they came; the alarms that they raise.

        Args:
            predicted, observed: quality 0 to 1, numbers or `[N]`; an observed NaN is passed over.

        Raises:
            RouterError: shapes differ, or a value is not 0 to 1.
        """
        try:
            p = np.atleast_1d(np.asarray(predicted, np.float64))
            y = np.atleast_1d(np.asarray(observed, np.float64))
        except (TypeError, ValueError) as error:
            raise RouterError(f"predicted and observed must be numbers: {error}") from error
        if p.shape != y.shape or p.ndim != 1:
            raise RouterError(
                f"predicted has shape {p.shape} and observed {y.shape}; expected the same [N]"
            )
        known = ~np.isnan(y)
        p, y = p[known], y[known]
        if not (((p >= 0) & (p <= 1)).all() and ((y >= 0) & (y <= 1)).all()):
            raise RouterError("predicted and observed qualities must be from 0 to 1")
        raised = []
        while p.size:
            taken, alarm = self._advance(y - p)
            p, y = p[taken:], y[taken:]
            if alarm is not None:
                raised.append(alarm)
        self.alarms.extend(raised)
        return raised

    def _advance(self, gap: FloatArray) -> tuple[int, Alarm | None]:
        """Take pairs up to the first alarm or to the end; how many, and the alarm."""
        bets = 1.0 + self._stakes * (self._signs * gap[:, None] - self.tolerance)
        # A bet that can lose everything stands at zero until it starts anew at one.
        growth = np.cumsum(np.log(np.maximum(bets, 1e-300)), axis=0)
        # log M_t = S_t - min over s < t of S_s, the stake before these pairs at log max(M, 1).
        before = np.concatenate([np.zeros((1, growth.shape[1])), growth[:-1]])
        started = np.maximum(self._log, 0.0)
        floor = np.minimum.accumulate(np.concatenate([-started[None], before[1:]]), axis=0)
        log = growth - floor
        passed = np.flatnonzero(
            np.exp(np.minimum(log, 700.0)).mean(axis=1) > self.false_alarm_every
        )
        taken = int(passed[0]) + 1 if passed.size else gap.size
        fresh = before[:taken] <= floor[:taken]
        fresh[0] &= self._log <= 0.0
        last = np.where(fresh.any(axis=0), taken - 1 - fresh[::-1].argmax(axis=0), -1)
        self._since = np.where(last >= 0, self.seen + last, self._since)
        total = np.concatenate([np.zeros(1), np.cumsum(gap[:taken])])
        self._sum = np.where(
            last >= 0, total[-1] - total[np.maximum(last, 0)], self._sum + total[-1]
        )
        self._log = np.asarray(log[taken - 1], np.float64)
        self.seen += taken
        if not passed.size:
            return taken, None
        best = int(self._log.argmax())
        since = int(self._since[best])
        alarm = Alarm(self.seen, since, float(self._sum[best] / (self.seen - since)))
        self._restart()
        return taken, alarm

    def _restart(self) -> None:
        self._log = np.zeros(self._stakes.size)
        self._since = np.full(self._stakes.size, self.seen)
        self._sum = np.zeros(self._stakes.size)


def watch(
    router: QueryRouter,
    data: RoutingData,
    *,
    policy: Policy | None = None,
    false_alarm_every: float = 10_000.0,
    tolerance: float = 0.02,
) -> CalibrationMonitor:
    """A monitor that has seen the queries of `data` in order: of each, the model chosen for it.

    Args:
        router: fitted.
        data: queries with outcomes; a chosen model without an outcome is passed over.
        policy: which chooses; `Quality()` when None.
        false_alarm_every, tolerance: of the monitor.
    """
    from wye.query.policies import Quality
    from wye.query.policies.choosing import targets_of

    check_data(data)
    estimate = router.estimate(data.texts)
    rule = Quality() if policy is None else policy
    target = targets_of(rule.choose(estimate, generator=np.random.default_rng(0)))
    names = data.model_names
    column = np.array([names.index(m) if m in names else -1 for m in estimate.models])
    known = (target >= 0) & (column[np.maximum(target, 0)] >= 0)
    rows, chosen = np.flatnonzero(known), target[known]
    monitor = CalibrationMonitor(false_alarm_every=false_alarm_every, tolerance=tolerance)
    monitor.update(estimate.quality[rows, chosen], data.quality[rows, column[chosen]])
    return monitor
