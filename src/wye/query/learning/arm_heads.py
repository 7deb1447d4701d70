"""One figure (quality, cost, latency) of every arm as a function of a context, learned online.

The mean of the arm so far, plus a ridge regression of what is above or below it (`RidgeArms`). The
mean of the moment is taken off when an observation comes, so early observations keep the mean of
their time.

Shape letters: Q queries, M models, D context width, N observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits import RidgeArms
from wye.query.base import FloatArray


class ArmHead:
    """Running mean and ridge of one figure per arm.

    Args:
        n_arms: M.
        width: D.
        prior: value of an arm that was never observed; counts as one observation. NaN for none:
            such an arm's value is NaN.
        reg: weight of the ridge's prior.
    """

    def __init__(self, n_arms: int, width: int, *, prior: float, reg: float = 1.0) -> None:
        self.prior = prior
        self.ridge = RidgeArms(n_arms, width, reg=reg)
        self.total = np.zeros(n_arms)
        self.low = np.full(n_arms, np.inf)
        self.high = np.full(n_arms, -np.inf)

    @property
    def count(self) -> NDArray[np.int64]:
        """`[M]` observations."""
        return self.ridge.count

    @property
    def level(self) -> FloatArray:
        """`[M]` mean of each arm, shrunk to the prior where there is one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isnan(self.prior):
                return np.asarray(self.total / self.count, np.float64)
            return np.asarray((self.total + self.prior) / (self.count + 1.0), np.float64)

    def value(self, x: FloatArray) -> FloatArray:
        """Expected figure `[Q, M]` in contexts `[Q, D]`, within what was observed and the prior."""
        low, high = np.fmin(self.low, self.prior), np.fmax(self.high, self.prior)
        return np.asarray(np.clip(self.level + self.ridge.mean(x), low, high), np.float64)

    def learn(self, arm: int, x: FloatArray, values: FloatArray) -> None:
        """Learn `values` `[N]`, finite, of `arm` in contexts `[N, D]`."""
        if not values.size:
            return
        self.total[arm] += values.sum()
        self.low[arm] = min(self.low[arm], values.min())
        self.high[arm] = max(self.high[arm], values.max())
        count = self.count[arm] + values.size
        if np.isnan(self.prior):
            level = self.total[arm] / count
        else:
            level = (self.total[arm] + self.prior) / (count + 1.0)
        self.ridge.learn(arm, x, values - level)

    def add_arm(self) -> None:
        """Append an arm that nothing is known of."""
        self.ridge.add_arm()
        self.total = np.append(self.total, 0.0)
        self.low, self.high = np.append(self.low, np.inf), np.append(self.high, -np.inf)

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        self.ridge.remove_arm(arm)
        self.total = np.delete(self.total, arm)
        self.low, self.high = np.delete(self.low, arm), np.delete(self.high, arm)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        own = {"total": self.total.copy(), "low": self.low.copy(), "high": self.high.copy()}
        return own | self.ridge.get_state()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.ridge.set_state(arrays)
        self.total = np.array(arrays["total"])
        self.low, self.high = np.array(arrays["low"]), np.array(arrays["high"])
