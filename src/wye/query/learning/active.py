"""Which queries a newcomer should answer: Bayesian experimental design on the factorisation's code.

A newcomer's (bias, v) has a Gaussian prior of covariance P, and an answer to a query with code x =
(1, u) is x . (bias, v) plus noise of variance s2. An answer to x takes P to

    P - P x x' P / (s2 + x' P x),

whatever the answer turns out to be, so that a whole batch can be chosen before anything is asked.
Greedy choices, one query after the other (Chaloner and Verdinelli, Statistical Science 10, 1995):

- `variance` (I-optimal, Bayesian): the largest fall of the mean variance of the newcomer's quality
  over all candidates, x' P C P x / (s2 + x' P x) with C = mean of y y' over the candidates y;
- `determinant` (D-optimal): the largest gain of information about (bias, v), log(1 + x' P x / s2).

Both trust the linear model at the far ends of the code, where answers to real questions are least
linear. Measured against queries drawn at random (`bench/query/joining.py`), `variance` forecasts a
newcomer no better and `determinant` a little better from 40 answers; routed quality is the same
within its error. Hence the default, and hence random queries are no mistake.

Shape letters: Q candidates, K code (the constant included).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.joining import JoiningRouter

CRITERIA = ("variance", "determinant")


def choose_queries(
    code: FloatArray,
    covariance: FloatArray,
    noise: float,
    n: int,
    *,
    criterion: str = "determinant",
) -> list[int]:
    """The `n` candidates to measure, in the order in which they were chosen, none twice.

    Args:
        code: `[Q, K]` of the candidates, drawn as the queries to come.
        covariance: `[K, K]` prior P of a newcomer.
        noise: standard deviation of one answer around its expectation.
        n: how many.
        criterion: one of `CRITERIA`.

    Raises:
        RouterError: an unknown criterion, n below 1, or fewer than `n` candidates.

    Example:
        >>> code = np.array([[1.0, 0.0], [1.0, 3.0], [1.0, -3.0], [1.0, 0.1]])
        >>> sorted(choose_queries(code, np.eye(2), 0.5, 2))
        [1, 2]
    """
    if criterion not in CRITERIA:
        raise RouterError(f"criterion is {criterion!r}, expected one of {list(CRITERIA)}")
    if not 1 <= n <= len(code):
        raise RouterError(
            f"{n} queries are to be chosen of {len(code)} candidates; give at least as many "
            "candidates, and choose at least one"
        )
    spread = code.T @ code / len(code)
    posterior = covariance.copy()
    free = np.ones(len(code), dtype=np.bool_)
    chosen: list[int] = []
    for _ in range(n):
        reached = code @ posterior
        own = (reached * code).sum(axis=1)
        if criterion == "variance":
            gain = ((reached @ spread) * reached).sum(axis=1) / (noise**2 + own)
        else:
            gain = own
        best = int(np.where(free, gain, -np.inf).argmax())
        posterior -= np.outer(reached[best], reached[best]) / (noise**2 + own[best])
        free[best] = False
        chosen.append(best)
    return chosen


@runtime_checkable
class LinearNewcomer(Protocol):
    """An estimator in which the quality of a newcomer is linear in what its answers tell of it."""

    def code(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, K]` what the newcomer's parameters are multiplied with, the constant included."""

    def prior(self) -> tuple[FloatArray, FloatArray, float]:
        """Mean `[K]` and covariance `[K, K]` of these parameters, and the noise of one answer."""


class ChoosingRouter(JoiningRouter):
    """A router that says which queries a model should answer to join it."""

    def suggest(
        self, texts: Sequence[str], n: int = 40, *, criterion: str = "determinant"
    ) -> list[int]:
        """Which of the texts a newcomer should answer, the most telling ones first.

        Args:
            texts: Q candidates, drawn as the queries that will be routed.
            n: how many to choose; 20 to 50 are enough as a rule.
            criterion: see `choose_queries`.

        Returns:
            Positions in `texts`.

        Raises:
            NotFittedError: before `fit`.
            RouterError: fewer than `n` candidates, or an unknown criterion.
        """
        estimator = self._joiner()
        assert isinstance(estimator, LinearNewcomer)
        _, covariance, noise = estimator.prior()
        code = estimator.code(self._inputs(texts))
        return choose_queries(code, covariance, noise, n, criterion=criterion)
