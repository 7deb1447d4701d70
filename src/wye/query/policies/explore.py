"""Explore: with a small probability a model at random, so that logs can teach.

Decides before an answer, epsilon-greedy: with probability epsilon a model drawn uniformly among
those that the inner policy could have taken. The propensity of every choice is exact, which
off-policy estimates from the log rest on (Horvitz and Thompson 1952).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.query.policies.choosing import (
    IntArray,
    Reason,
    check_number,
    targets_of,
    write_choice,
)
from wye.query.policies.quality import Quality
from wye.query.policy import Choice, Policy, PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray


class Explore(Policy):
    """Follow `inner`, but with probability `epsilon` draw a feasible model uniformly.

    With n feasible models the choice of `inner` has propensity 1 - epsilon + epsilon / n, any other
    epsilon / n. Where `inner` abstains, so does this.

    Args:
        inner: a policy that neither randomises nor keeps state; `Quality()` when None.
        epsilon: share of queries that explore, 0 to 1.

    Raises:
        PolicyError: epsilon out of range, or an inner policy that keeps state (`Budget` has an
            `epsilon` of its own).

    Example:
        >>> Explore(epsilon=0.1).describe()
        'explore(inner=quality(), epsilon=0.1)'
    """

    name = "explore"

    def __init__(self, *, inner: Policy | None = None, epsilon: float = 0.05) -> None:
        self.inner = Quality() if inner is None else inner
        self.epsilon = check_number(self.name, "epsilon", epsilon, high=1.0)
        if self.inner.stateful:
            raise PolicyError(
                f"explore: {self.inner.name} keeps account of its own choices, which a random "
                "model would bypass; a budget takes epsilon itself: Budget(..., epsilon=...)"
            )

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose as `inner` or at random; a fresh unseeded generator when none is given.

        Raises:
            PolicyError: `inner` randomises, or as `inner` raises.
        """
        choice = self.inner.choose(estimate, allowed=allowed, generator=generator)
        if bool((choice.propensity != 1.0).any()):
            raise PolicyError(
                f"explore: {self.inner.describe()} randomises, so the probability of a model is "
                "not known; put the exploration in one place"
            )
        rng = np.random.default_rng() if generator is None else generator
        greedy = targets_of(choice)
        feasible = ~np.isneginf(choice.score)
        n = feasible.sum(axis=1)
        explores = (rng.random(len(estimate)) < self.epsilon) & (greedy >= 0) & (n > 0)
        drawn = _draw(feasible, rng)
        target = np.where(explores, drawn, greedy)
        law = self._law(feasible, greedy)
        draws = (greedy >= 0) & (n > 0)
        propensity = np.where(draws, _at(law, target), 1.0)

        def reason(i: int) -> Reason:
            if not explores[i]:
                return choice.reasons[i]
            return (
                (
                    f"{estimate.models[int(target[i])]} was drawn at random among {int(n[i])} "
                    f"models to learn from its answer (share of such queries: {self.epsilon:g})"
                ),
                f"without exploring it would have been {estimate.models[int(greedy[i])]}",
            )

        return write_choice(estimate, choice.score, target, reason, propensity, law)

    def _law(self, feasible: BoolArray, greedy: IntArray) -> FloatArray:
        """`[Q, M]` probability of every model; rows where `inner` abstains are 0."""
        n = feasible.sum(axis=1, keepdims=True)
        law = np.where(feasible, self.epsilon / np.maximum(n, 1), 0.0)
        rows = np.flatnonzero(greedy >= 0)
        law[rows, greedy[rows]] += np.where(n[rows, 0] > 0, 1.0 - self.epsilon, 1.0)
        law[greedy < 0] = 0.0
        return law

    def describe(self) -> str:
        """Name and parameters, those of the inner policy included."""
        return f"explore(inner={self.inner.describe()}, epsilon={self.epsilon!r})"


def _at(law: FloatArray, target: IntArray) -> FloatArray:
    if law.shape[1] == 0:
        return np.zeros(law.shape[0])
    return np.asarray(np.take_along_axis(law, target[:, None], axis=1)[:, 0], np.float64)


def _draw(feasible: BoolArray, rng: np.random.Generator) -> IntArray:
    if feasible.shape[1] == 0:
        return np.full(feasible.shape[0], -1, dtype=np.intp)
    drawn: IntArray = np.where(feasible, rng.random(feasible.shape), -1.0).argmax(axis=1)
    return drawn
