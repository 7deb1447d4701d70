"""Bandits whose arms are ridge regressions on the context: LinUCB, Thompson, epsilon-greedy.

Shape letters: M arms, D context width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits.base import (
    Bandit,
    Booleans,
    Epsilon,
    Floats,
    Pick,
    allowed_arms,
    check_number,
    epsilon_pick,
    greedy_pick,
)
from wye.core.bandits.ridge_arms import RidgeArms

# Nodes of the quadrature over the standard normal score of one arm, and how far it reaches.
_NODES, _REACH = 161, 8.0
# The same for all arms at once, whose probabilities are divided by their sum afterwards.
_COARSE = np.linspace(-6.0, 6.0, 65)
_DENSITY = np.exp(-0.5 * _COARSE * _COARSE)


class _LinearBandit(Bandit):
    """What the three share: the arms."""

    def __init__(self, n_arms: int, width: int, reg: float, refresh_every: int) -> None:
        self.ridge = RidgeArms(n_arms, width, reg=reg, refresh_every=refresh_every)

    @property
    def n_arms(self) -> int:
        """M."""
        return self.ridge.n_arms

    @abstractmethod
    def law(
        self, x: Floats, allowed: Booleans | None = None, prior: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Probability of every arm `[M]` in context `x` `[D]`, and the scores `[M]` behind it.

        The probabilities add up to 1. Who draws from them knows the propensity of the choice by
        construction.

        Args:
            x: the context.
            allowed: `[M]` arms that may be chosen; all when None.
            prior: `[M]` expected reward before anything was learned, when the bandit was taught
                what a reward differs from it; 0 when None.
        """

    def learn(self, arm: int, x: Floats, rewards: Floats) -> None:
        """Learn `rewards` `[N]` of `arm` in contexts `[N, D]`."""
        self.ridge.learn(arm, x, rewards)

    def _scored(self, x: Floats, prior: Floats | None) -> tuple[Floats, Floats]:
        """Mean and spread of every arm's reward, `[M]` each."""
        row = np.atleast_2d(x)
        mean = self.ridge.mean(row)[0]
        return mean if prior is None else mean + prior, self.ridge.spread(row)[0]

    def add_arm(self) -> int:
        """Append an arm that nothing is known of, and return its position."""
        return self.ridge.add_arm()

    def remove_arm(self, arm: int) -> None:
        """Forget an arm; the later ones move up."""
        self.ridge.remove_arm(arm)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return self.ridge.get_state()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.ridge.set_state(arrays)


class LinUCB(_LinearBandit):
    """The arm with the highest optimistic reward: argmax theta_m . x + alpha sqrt(x' A_m^-1 x).

    Li, Chu, Langford and Schapire 2010, arXiv 1003.0146, algorithm 1.

    Args:
        n_arms: M.
        width: D.
        alpha: weight of the bonus, >= 0.
        reg: weight of the prior. An arm never tried has the bonus alpha |x| / sqrt(reg).
        refresh_every: observations of an arm between two exact solves.

    Example:
        >>> bandit = LinUCB(3, 2)
        >>> x, generator = np.array([1.0, 0.0]), np.random.default_rng(0)
        >>> bandit.learn(0, x[None], np.array([0.0]))
        >>> bandit.pick(x, generator).arm
        1
    """

    def __init__(
        self,
        n_arms: int,
        width: int,
        *,
        alpha: float = 0.5,
        reg: float = 0.05,
        refresh_every: int = 500,
    ) -> None:
        super().__init__(n_arms, width, reg, refresh_every)
        self.alpha = check_number("alpha", alpha)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """The allowed arm with the highest optimistic reward; deterministic."""
        del generator
        mean, spread = self._scored(x, None)
        return greedy_pick(mean + self.alpha * spread, allowed_arms(self.n_arms, allowed))

    def law(
        self, x: Floats, allowed: Booleans | None = None, prior: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The arm with the highest optimistic reward has probability 1."""
        mean, spread = self._scored(x, prior)
        best = greedy_pick(mean + self.alpha * spread, allowed_arms(self.n_arms, allowed))
        return np.asarray(np.arange(self.n_arms) == best.arm, np.float64), best.score


class LinearThompson(_LinearBandit):
    """The best arm under rewards drawn from each arm's posterior.

    Rewards have noise `sigma` and weights the prior N(0, prior_var I):
        B = I / prior_var + sum x x' / sigma^2,   mu = B^-1 sum r x / sigma^2,   w ~ N(mu, B^-1)
    (Agrawal and Goyal 2013, arXiv 1209.3352), which is ridge with reg = sigma^2 / prior_var and
    covariance sigma^2 A^-1. The score w . x of one context is drawn directly, from
    N(mu . x, x' B^-1 x). The propensity is the probability that the chosen arm's score is the
    largest, integrated over that score.

    Args:
        n_arms: M.
        width: D.
        sigma: standard deviation of a reward, > 0.
        prior_var: variance of a weight beforehand, > 0.
        refresh_every: observations of an arm between two exact solves.
    """

    def __init__(
        self,
        n_arms: int,
        width: int,
        *,
        sigma: float = 0.25,
        prior_var: float = 2.0,
        refresh_every: int = 500,
    ) -> None:
        self.sigma = check_number("sigma", sigma, strict=True)
        self.prior_var = check_number("prior_var", prior_var, strict=True)
        super().__init__(n_arms, width, self.sigma**2 / self.prior_var, refresh_every)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """The allowed arm with the largest drawn reward."""
        mask = allowed_arms(self.n_arms, allowed)
        row = np.atleast_2d(x)
        mean = self.ridge.mean(row)[0]
        deviation = np.maximum(self.sigma * self.ridge.spread(row)[0], 1e-12)
        drawn = greedy_pick(mean + deviation * generator.standard_normal(self.n_arms), mask)
        return Pick(drawn.arm, largest_probability(mean, deviation, drawn.arm, mask), drawn.score)

    def law(
        self, x: Floats, allowed: Booleans | None = None, prior: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """How probably each arm's drawn reward is the largest, by quadrature; scores are means."""
        mask = allowed_arms(self.n_arms, allowed)
        mean, spread = self._scored(x, prior)
        deviation = np.maximum(self.sigma * spread, 1e-12)
        found = np.zeros(self.n_arms)
        found[mask] = largest_probabilities(mean[mask], deviation[mask])
        return found, np.where(mask, mean, -np.inf)


class LinearEpsilonGreedy(_LinearBandit):
    """The arm with the highest fitted reward, and a random one with a shrinking probability.

    Args:
        n_arms: M.
        width: D.
        reg: weight of the prior.
        epsilon: share of random picks at first; `decay` per pick, down to `floor`.
        refresh_every: observations of an arm between two exact solves.
    """

    def __init__(
        self,
        n_arms: int,
        width: int,
        *,
        reg: float = 0.25,
        epsilon: float = 1.0,
        decay: float = 0.985,
        floor: float = 0.01,
        refresh_every: int = 500,
    ) -> None:
        super().__init__(n_arms, width, reg, refresh_every)
        self.epsilon = Epsilon(epsilon, decay, floor)

    def pick(
        self, x: Floats, generator: np.random.Generator, allowed: Booleans | None = None
    ) -> Pick:
        """The best allowed arm, or a random one."""
        mask = allowed_arms(self.n_arms, allowed)
        score = self.ridge.mean(np.atleast_2d(x))[0]
        return epsilon_pick(score, mask, self.epsilon.step(), generator)

    def law(
        self, x: Floats, allowed: Booleans | None = None, prior: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The best allowed arm, but for the present share of random picks; the share stays."""
        mask = allowed_arms(self.n_arms, allowed)
        best = greedy_pick(self._scored(x, prior)[0], mask)
        share = max(self.epsilon.value, self.epsilon.floor)
        found = np.where(mask, share / mask.sum(), 0.0)
        found[best.arm] += 1.0 - share
        return found, best.score

    def skip(self, picks: int) -> None:
        """Count `picks` picks that others made."""
        self.epsilon.skip(picks)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return super().get_state() | {"epsilon": np.array([self.epsilon.value])}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.epsilon.value = float(arrays["epsilon"][0])


def largest_probability(mean: Floats, deviation: Floats, arm: int, allowed: Booleans) -> float:
    """Probability that `arm` is the largest of independent normal scores, at least 1e-9.

    integral phi(z) prod_{m != arm} Phi((mean_arm + deviation_arm z - mean_m) / deviation_m) dz by
    the trapezoidal rule.

    Args:
        mean, deviation: `[M]` of the scores, deviation > 0.
        arm: whose.
        allowed: `[M]` who takes part.
    """
    from scipy.special import log_ndtr

    others = allowed.copy()
    others[arm] = False
    z = np.linspace(-_REACH, _REACH, _NODES)
    value = mean[arm] + deviation[arm] * z
    beats = log_ndtr((value[:, None] - mean[others]) / deviation[others]).sum(axis=1)
    density = np.exp(beats - 0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return float(np.clip(density.sum() * (z[1] - z[0]), 1e-9, 1.0))


def largest_probabilities(mean: Floats, deviation: Floats) -> Floats:
    """`[M]` probability of each of independent normal scores to be the largest; adds up to 1.

    The integral of `largest_probability` for all of them at once, divided by its sum, which differs
    from 1 by the error of the quadrature alone.

    Args:
        mean, deviation: `[M]` of the scores, deviation > 0.
    """
    from scipy.special import ndtr

    value = mean + deviation * _COARSE[:, None]
    below = ndtr((value[:, :, None] - mean) / deviation)
    arms = np.arange(mean.size)
    below[:, arms, arms] = 1.0
    found = _DENSITY @ below.prod(axis=2)
    return np.asarray(found / found.sum(), np.float64)
