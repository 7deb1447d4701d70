"""A log's quality and cost in one reward: scaled within each task, weighed by a scenario.

    U = a P - b C,   P, C = quality, cost min-max scaled within the task, on training queries

Source: GraphRouter, arXiv 2410.03834, and FusionFactory, arXiv 2507.10540. Their scenarios (a, b)
are performance first (1, 0), balance (0.5, 0.5) and cost first (0.2, 0.8).

Shape letters: Q queries, M models, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

PERFORMANCE_FIRST, BALANCE, COST_FIRST = (1.0, 0.0), (0.5, 0.5), (0.2, 0.8)


@dataclass(frozen=True)
class TaskScale:
    """The least and the greatest value seen in each task.

    Attributes:
        low, high: `[T]`; NaN for a task without known values.

    Example:
        >>> scale = TaskScale.fit(np.array([[1.0, 3.0], [5.0, 5.0]]), np.array([0, 1]), 2)
        >>> scale.apply(np.array([[2.0, 3.0], [5.0, 5.0]]), np.array([0, 1])).tolist()
        [[0.5, 1.0], [0.0, 0.0]]
    """

    low: FloatArray
    high: FloatArray

    @classmethod
    def fit(cls, values: FloatArray, tasks: NDArray[np.intp], n_tasks: int) -> TaskScale:
        """Of `values` `[Q, M]` (NaN: unknown) of queries of `tasks` `[Q]`."""
        low, high = np.full(n_tasks, np.inf), np.full(n_tasks, -np.inf)
        known = np.isfinite(values)
        np.minimum.at(low, tasks, np.where(known, values, np.inf).min(axis=1))
        np.maximum.at(high, tasks, np.where(known, values, -np.inf).max(axis=1))
        seen = np.isfinite(low)
        return cls(np.where(seen, low, np.nan), np.where(seen, high, np.nan))

    def apply(self, values: FloatArray, tasks: NDArray[np.intp]) -> FloatArray:
        """`values` `[Q, M]` from 0 to 1; 0 where a task has one value only, NaN where unknown.

        A value outside what the task had in training is taken for the nearer end.
        """
        low, width = self.low[tasks, None], (self.high - self.low)[tasks, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = np.where(width > 0, (values - low) / width, values * 0.0)
        return np.asarray(np.clip(scaled, 0.0, 1.0), np.float64)


def check_scenario(scenario: Sequence[float]) -> tuple[float, float]:
    """Weights (a, b) of quality and cost.

    Raises:
        RouterError: not two numbers of 0 or more, the first above 0.
    """
    numbers = [x for x in scenario if isinstance(x, (int, float))]
    if len(scenario) != 2 or len(numbers) != 2 or not numbers[0] > 0 or not numbers[1] >= 0:
        raise RouterError(
            f"scenario is {scenario!r}, expected the weights of quality (above 0) and of cost (0 "
            "or more), for instance (0.5, 0.5)"
        )
    return float(scenario[0]), float(scenario[1])


def reward(performance: FloatArray, cost: FloatArray, scenario: tuple[float, float]) -> FloatArray:
    """U = a P - b C of scaled performance and cost, `[Q, M]`; NaN where one that counts is unknown.

    Example:
        >>> reward(np.array([[1.0]]), np.array([[0.5]]), (0.5, 0.5)).tolist()
        [[0.25]]
    """
    a, b = check_scenario(scenario)
    return np.asarray(a * performance - b * cost if b > 0 else a * performance, np.float64)


def winners(utility: FloatArray, cost: FloatArray | None = None) -> NDArray[np.bool_]:
    """`[Q, M]` the arms with the highest utility of each query, of equals the cheapest.

    None of a query on which all known arms are equal in both: it says nothing of which is better.

    Args:
        utility: `[Q, M]`, NaN where unknown.
        cost: `[Q, M]`, NaN where unknown, which counts as dearest; None leaves all equals.
    """
    known = np.isfinite(utility)
    value = np.where(known, utility, -np.inf)
    tied = known & (value >= value.max(axis=1, keepdims=True))
    if cost is not None:
        price = np.where(np.isfinite(cost), cost, np.inf)
        tied &= price <= np.where(tied, price, np.inf).min(axis=1, keepdims=True)
    return np.asarray(tied & (tied.sum(axis=1) < known.sum(axis=1))[:, None], np.bool_)


def best_arms(utility: FloatArray, cost: FloatArray | None = None) -> NDArray[np.intp]:
    """`[Q]` the winner of each query, of several the best on average; -1 where there is none.

    Args:
        utility, cost: as for `winners`.
    """
    won, known = winners(utility, cost), np.isfinite(utility)
    level = np.where(known, utility, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    order = np.argsort(-level, kind="stable")
    return np.where(won.any(axis=1), order[won[:, order].argmax(axis=1)], -1).astype(np.intp)
