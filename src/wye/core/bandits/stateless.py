"""Bandits without a context: Q-learning of one value per arm, and learning by gradient.

Shape letters: M arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits.base import (
    Bandit,
    BanditError,
    Booleans,
    Epsilon,
    Floats,
    Pick,
    allowed_arms,
    check_arms,
    check_number,
    check_observations,
    check_removal,
    epsilon_pick,
)


class ValueLearning(Bandit):
    """Stateless Q-learning with epsilon-greedy picks: Q_m <- Q_m + rate (r - Q_m).

    Unlike a mean, the value forgets, so that an arm that changes is followed.

    Args:
        n_arms: M.
        rate: share of a new reward in the value, in (0, 1].
        start: value of an arm never tried.
        epsilon: share of random picks at first; `decay` per pick, down to `floor`.
    """

    def __init__(
        self,
        n_arms: int,
        *,
        rate: float = 0.1,
        start: float = 0.0,
        epsilon: float = 1.0,
        decay: float = 0.98,
        floor: float = 0.01,
    ) -> None:
        check_arms(n_arms)
        self.rate = check_rate(rate)
        self.start = check_number("start", start, low=-np.inf)
        self.epsilon = Epsilon(epsilon, decay, floor)
        self.value = np.full(n_arms, self.start)

    @property
    def n_arms(self) -> int:
        """M."""
        return int(self.value.size)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """The allowed arm of highest value, or a random one."""
        del x
        mask = allowed_arms(self.n_arms, allowed)
        return epsilon_pick(self.value, mask, self.epsilon.step(), generator)

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm`, one after the other."""
        if not 0 <= arm < self.n_arms:
            raise BanditError(f"arm {arm} does not exist; there are {self.n_arms}")
        for reward in check_observations(x, rewards, None)[1].tolist():
            self.value[arm] += self.rate * (reward - self.value[arm])

    def skip(self, picks: int) -> None:
        """Count `picks` picks that others made."""
        self.epsilon.skip(picks)

    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""
        self.value = np.append(self.value, self.start)
        return self.n_arms - 1

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        check_removal(self.n_arms, arm)
        self.value = np.delete(self.value, arm)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return {"value": self.value.copy(), "epsilon": np.array([self.epsilon.value])}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.value = np.array(arrays["value"])
        self.epsilon.value = float(arrays["epsilon"][0])


class GradientBandit(Bandit):
    """A learning automaton: arms are drawn from p = softmax(h), which follows the gradient.

    h_j <- h_j + rate (r - baseline) (1[j = m] - p_j) with the mean reward so far as baseline
    (Sutton and Barto, Reinforcement Learning, 2nd ed., eq. 2.12; Williams 1992).

    Args:
        n_arms: M.
        rate: step, in (0, 1].
    """

    def __init__(self, n_arms: int, *, rate: float = 0.1) -> None:
        check_arms(n_arms)
        self.rate = check_rate(rate)
        self.preference = np.zeros(n_arms)
        self.baseline = 0.0
        self.count = 0

    @property
    def n_arms(self) -> int:
        """M."""
        return int(self.preference.size)

    def probabilities(self, allowed: Booleans | None = None) -> Floats:
        """`[M]` chance of each arm, 0 where it is not allowed."""
        mask = allowed_arms(self.n_arms, allowed)
        shifted = np.exp(self.preference - self.preference[mask].max())
        weight = np.where(mask, shifted, 0.0)
        return np.asarray(weight / weight.sum(), np.float64)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """An allowed arm drawn from `probabilities`."""
        del x
        mask = allowed_arms(self.n_arms, allowed)
        chance = self.probabilities(mask)
        arm = int(generator.choice(self.n_arms, p=chance))
        return Pick(arm, float(chance[arm]), np.where(mask, self.preference, -np.inf))

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm`, one after the other."""
        if not 0 <= arm < self.n_arms:
            raise BanditError(f"arm {arm} does not exist; there are {self.n_arms}")
        for reward in check_observations(x, rewards, None)[1].tolist():
            # The first reward has nothing to be compared with.
            baseline = self.baseline if self.count else reward
            direction = -self.probabilities()
            direction[arm] += 1.0
            self.preference += self.rate * (reward - baseline) * direction
            self.count += 1
            self.baseline += (reward - self.baseline) / self.count

    def add_arm(self) -> int:
        """Append an arm, as likely as the average arm; returns its position."""
        self.preference = np.append(self.preference, self.preference.mean())
        return self.n_arms - 1

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        check_removal(self.n_arms, arm)
        self.preference = np.delete(self.preference, arm)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return {
            "preference": self.preference.copy(),
            "baseline": np.array([self.baseline]),
            "count": np.array([self.count]),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.preference = np.array(arrays["preference"])
        self.baseline, self.count = float(arrays["baseline"][0]), int(arrays["count"][0])


def check_rate(rate: float) -> float:
    """A learning rate in (0, 1].

    Raises:
        BanditError: it is not.
    """
    if check_number("rate", rate, strict=True) > 1.0:
        raise BanditError(f"rate is {rate}, expected at most 1")
    return float(rate)
