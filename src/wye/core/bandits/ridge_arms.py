"""Disjoint ridge regressions, one per arm, that learn one observation at a time.

    A_m = reg I + sum x x',   b_m = sum r x,   theta_m = A_m^-1 b_m

(Li, Chu, Langford and Schapire 2010, arXiv 1003.0146, algorithm 1.) The inverse is kept by the
Sherman-Morrison formula, A^-1 - (A^-1 x)(A^-1 x)' / (1 + x' A^-1 x), and solved anew every
`refresh_every` observations of an arm, so that rounding does not add up.

Shape letters: M arms, D context width, Q contexts, N observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits.base import (
    BanditError,
    Floats,
    check_arms,
    check_number,
    check_observations,
    check_removal,
)

# Beyond this many observations at once a fresh solve costs less than as many updates.
_ONE_BY_ONE = 8


class RidgeArms:
    """Mean and width of the reward of every arm as linear functions of a context.

    Args:
        n_arms: M.
        width: D.
        reg: weight of the prior, > 0.
        refresh_every: observations of an arm between two exact solves.

    Attributes:
        count: `[M]` observations learned.

    Raises:
        BanditError: a parameter out of range.

    Example:
        >>> arms = RidgeArms(2, 1, reg=1.0)
        >>> arms.learn(1, np.ones((3, 1)), np.ones(3))
        >>> arms.mean(np.ones((1, 1))).tolist()
        [[0.0, 0.75]]
    """

    def __init__(
        self, n_arms: int, width: int, *, reg: float = 1.0, refresh_every: int = 500
    ) -> None:
        check_arms(n_arms)
        if width < 1 or refresh_every < 1:
            raise BanditError(
                f"width is {width} and refresh_every {refresh_every}, expected at least 1 each"
            )
        self.reg = check_number("reg", reg, strict=True)
        self.width = width
        self.refresh_every = refresh_every
        self.precision = np.tile(np.eye(width) * self.reg, (n_arms, 1, 1))
        self.inverse = np.tile(np.eye(width) / self.reg, (n_arms, 1, 1))
        self.moment = np.zeros((n_arms, width))
        self.theta = np.zeros((n_arms, width))
        self.count = np.zeros(n_arms, np.int64)
        self._since = np.zeros(n_arms, np.int64)

    @property
    def n_arms(self) -> int:
        """M."""
        return int(self.count.size)

    def mean(self, x: Floats) -> Floats:
        """Expected reward `[Q, M]` in contexts `[Q, D]`."""
        return np.asarray(x @ self.theta.T, np.float64)

    def spread(self, x: Floats) -> Floats:
        """sqrt(x' A_m^-1 x), `[Q, M]` in contexts `[Q, D]`: how little of x an arm has seen."""
        reached = self.inverse @ x.T
        square = np.einsum("mdq,qd->qm", reached, x)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)), np.float64)

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm` in contexts `[N, D]`.

        Raises:
            BanditError: an unknown arm, shapes that do not match, or NaN.
        """
        if not 0 <= arm < self.n_arms:
            raise BanditError(f"arm {arm} does not exist; there are {self.n_arms}")
        contexts, values = check_observations(x, rewards, self.width)
        if not values.size:
            return
        self.precision[arm] += contexts.T @ contexts
        self.moment[arm] += values @ contexts
        self.count[arm] += values.size
        self._since[arm] += values.size
        if values.size > _ONE_BY_ONE or self._since[arm] >= self.refresh_every:
            self.inverse[arm] = np.linalg.inv(self.precision[arm])
            self._since[arm] = 0
        else:
            for row in contexts:
                step = self.inverse[arm] @ row
                self.inverse[arm] -= np.outer(step, step / (1.0 + row @ step))
        self.theta[arm] = self.inverse[arm] @ self.moment[arm]

    def correct(self, arm: int, x: Floats, difference: float) -> None:
        """Raise by `difference` a reward of `arm` that was learned in context `x` `[D]` before.

        Raises:
            BanditError: an unknown arm, shapes that do not match, or NaN.
        """
        if not 0 <= arm < self.n_arms:
            raise BanditError(f"arm {arm} does not exist; there are {self.n_arms}")
        contexts, values = check_observations(x, np.array([difference]), self.width)
        self.moment[arm] += values @ contexts
        self.theta[arm] = self.inverse[arm] @ self.moment[arm]

    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""
        fresh = RidgeArms(1, self.width, reg=self.reg)
        for name in _ARRAYS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)]))
        return self.n_arms - 1

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up.

        Raises:
            BanditError: an unknown arm, or the last one.
        """
        check_removal(self.n_arms, arm)
        for name in _ARRAYS:
            setattr(self, name, np.delete(getattr(self, name), arm, axis=0))

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return {name.lstrip("_"): getattr(self, name).copy() for name in _ARRAYS}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        for name in _ARRAYS:
            setattr(self, name, np.array(arrays[name.lstrip("_")]))


_ARRAYS = ("precision", "inverse", "moment", "theta", "count", "_since")
