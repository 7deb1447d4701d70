"""The contract of a bandit: pick an arm for a context, learn the reward of the arm that was tried.

Arms are positions 0..M-1; their names belong to the caller. Arms come and go: `add_arm` appends
one that nothing is known of, `remove_arm` forgets one and moves the later ones up.

Shape letters: M arms, D context width, N observations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


class BanditError(ValueError):
    """A bandit was given something that it cannot work with; the message says what to do."""


@dataclass(frozen=True)
class Pick:
    """One choice.

    Attributes:
        arm: position of the chosen arm.
        propensity: probability with which this arm is chosen here, in (0, 1].
        score: `[M]` what the choice maximised; -inf where an arm was not allowed.
    """

    arm: int
    propensity: float
    score: Floats


class Bandit(ABC):
    """Base of every bandit. The constructor takes the number of arms first."""

    @property
    @abstractmethod
    def n_arms(self) -> int:
        """M."""

    @abstractmethod
    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """Choose an arm for context `x` `[D]` among the `allowed` `[M]`; ties to the first."""

    @abstractmethod
    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` that `arm` gave in contexts `x` `[N, D]`."""

    def skip(self, picks: int) -> None:  # noqa: B027
        """Count `picks` picks that others made; exploration that shrinks with time goes on."""

    @abstractmethod
    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""

    @abstractmethod
    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up. The last arm cannot leave."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""

    @abstractmethod
    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""


def check_number(name: str, value: float, *, low: float = 0.0, strict: bool = False) -> float:
    """`value` as a finite float >= `low` (> `low` where strict).

    Raises:
        BanditError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise BanditError(f"{name} is {value!r}, expected a finite number")
    if value < low or (strict and value == low):
        raise BanditError(f"{name} is {value}, expected a number {'>' if strict else '>='} {low}")
    return float(value)


def check_arms(n_arms: int) -> int:
    """A number of arms, at least 1.

    Raises:
        BanditError: it is not a positive integer.
    """
    if isinstance(n_arms, bool) or not isinstance(n_arms, int) or n_arms < 1:
        raise BanditError(f"n_arms is {n_arms!r}, expected an integer of at least 1")
    return n_arms


def check_removal(n_arms: int, arm: int) -> None:
    """Refuse to remove an arm that is not there, or the last one.

    Raises:
        BanditError: see above.
    """
    if not 0 <= arm < n_arms:
        raise BanditError(f"arm {arm} does not exist; there are {n_arms}")
    if n_arms == 1:
        raise BanditError("the last arm cannot be removed: a bandit needs at least one")


def allowed_arms(n_arms: int, allowed: Booleans | None) -> Booleans:
    """`allowed` as booleans `[M]`; all when None.

    Raises:
        BanditError: another shape or type, or no arm is allowed.
    """
    if allowed is None:
        return np.ones(n_arms, np.bool_)
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (n_arms,):
        raise BanditError(
            f"allowed is {mask.dtype} of shape {mask.shape}, expected booleans [M={n_arms}]"
        )
    if not mask.any():
        raise BanditError("no arm is allowed; allow at least one")
    return mask


def check_observations(x: Floats, rewards: Floats, width: int | None) -> tuple[Floats, Floats]:
    """Contexts `[N, D]` and rewards `[N]` as finite float arrays.

    Raises:
        BanditError: shapes that do not match, or NaN: an unknown reward is not learned from.
    """
    contexts = np.atleast_2d(np.asarray(x, np.float64))
    values = np.atleast_1d(np.asarray(rewards, np.float64))
    wide = contexts.shape[1] if width is None else width
    if values.ndim != 1 or contexts.shape != (values.size, wide):
        raise BanditError(
            f"contexts have shape {contexts.shape} and rewards {values.shape}, expected "
            f"[N, D={wide}] and [N]"
        )
    if not (np.isfinite(contexts).all() and np.isfinite(values).all()):
        raise BanditError("contexts and rewards must be finite; leave unknown rewards out")
    return contexts, values


def greedy_pick(score: Floats, allowed: Booleans) -> Pick:
    """The first best of the allowed arms, with certainty."""
    masked = np.where(allowed, score, -np.inf)
    return Pick(int(masked.argmax()), 1.0, masked)


def epsilon_pick(
    score: Floats, allowed: Booleans, epsilon: float, generator: np.random.Generator
) -> Pick:
    """The first best arm with probability 1 - epsilon, else one of the allowed uniformly."""
    best = greedy_pick(score, allowed)
    possible = np.flatnonzero(allowed)
    arm = best.arm
    if generator.random() < epsilon:
        arm = int(possible[generator.integers(possible.size)])
    share = epsilon / possible.size
    return Pick(arm, share + (1.0 - epsilon if arm == best.arm else 0.0), best.score)


@dataclass
class Epsilon:
    """Share of random picks, which shrinks by a factor with every pick down to a floor.

    Raises:
        BanditError: a number outside of [0, 1].
    """

    value: float = 1.0
    decay: float = 0.98
    floor: float = 0.01

    def __post_init__(self) -> None:
        for name in ("value", "decay", "floor"):
            if check_number(f"epsilon {name}", getattr(self, name)) > 1.0:
                raise BanditError(f"epsilon {name} is {getattr(self, name)}, expected at most 1")

    def step(self) -> float:
        """The share of this pick; the next one is smaller."""
        share = max(self.value, self.floor)
        self.value = max(self.value * self.decay, self.floor)
        return share

    def skip(self, picks: int) -> None:
        """Shrink as after `picks` picks."""
        self.value = max(self.value * self.decay**picks, self.floor)
