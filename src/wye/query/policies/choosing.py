"""The steps that every policy takes: read what is allowed, take the best, write the choice down.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from wye.query.policy import Choice, PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray

Reason = tuple[str, ...]
IntArray = NDArray[np.intp]

NOTHING_ALLOWED: Reason = ("no model is allowed for this query, so it goes nowhere",)
_LARGEST = np.finfo(np.float64).max


class Reasons(Sequence[Reason]):
    """The reasons of Q choices, built when they are read: a sweep over policies reads none."""

    def __init__(self, n: int, build: Callable[[int], Reason]) -> None:
        self._n = n
        self._build = build

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> Reason: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Reason, ...]: ...
    def __getitem__(self, index: int | slice) -> Reason | tuple[Reason, ...]:
        if isinstance(index, slice):
            return tuple(self._build(i) for i in range(*index.indices(self._n)))
        position = index + self._n if index < 0 else index
        if not 0 <= position < self._n:
            raise IndexError(f"reason {index} of {self._n}")
        return self._build(position)


def allowed_models(estimate: Estimate, allowed: BoolArray | None) -> BoolArray:
    """`allowed` as booleans `[Q, M]`; everything when None.

    Raises:
        PolicyError: `allowed` is neither `[Q, M]` nor `[M]`, or is not boolean.
    """
    shape = (len(estimate), len(estimate.models))
    if allowed is None:
        return np.ones(shape, dtype=np.bool_)
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_:
        raise PolicyError(f"allowed is {mask.dtype}, expected booleans [Q, M] or [M]")
    if mask.shape not in (shape, shape[1:]):
        raise PolicyError(
            f"allowed has shape {mask.shape}, expected [Q, M] = {shape} or [M] = {shape[1:]} "
            f"for the models {list(estimate.models)}"
        )
    # Broadcasting costs more than all the rest of a choice for one query.
    return mask if mask.shape == shape else np.broadcast_to(mask, shape)


def best_target(score: FloatArray, cost: FloatArray) -> IntArray:
    """`[Q]` column of the largest score, -1 where all are -inf.

    Ties go to the lower `cost` (an unknown cost last), then to the first column.
    """
    n_queries, n_models = score.shape
    if n_models == 0:
        return np.full(n_queries, -1, dtype=np.intp)
    if n_queries == 1 and not np.isnan(score).any():
        return np.array([_best_of_one(score[0].tolist(), cost[0].tolist())], dtype=np.intp)
    target: IntArray = score.argmax(axis=1)
    top = score.max(axis=1, keepdims=True)
    tied = score == top
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    if rows.size:
        price = np.where(np.isnan(cost[rows]), _LARGEST, np.minimum(cost[rows], _LARGEST))
        target[rows] = np.where(tied[rows], price, np.inf).argmin(axis=1)
    target[top[:, 0] == -np.inf] = -1
    return target


def _best_of_one(score: list[float], cost: list[float]) -> int:
    """`best_target` of one query; a few numbers are compared faster than arrays of them."""
    top = max(score)
    if top == -math.inf:
        return -1

    def price(column: int) -> float:
        return math.inf if math.isnan(cost[column]) else cost[column]

    return min((i for i, value in enumerate(score) if value == top), key=price)


def write_choice(
    estimate: Estimate,
    score: FloatArray,
    target: IntArray,
    reason: Callable[[int], Reason],
    propensity: FloatArray | None = None,
    probabilities: FloatArray | None = None,
    reserved: FloatArray | None = None,
) -> Choice:
    """The `Choice` that sends query i to column `target[i]`, or nowhere where that is -1."""
    from wye.core import Plan

    n_queries = len(estimate)
    [source] = (target >= 0).nonzero()
    return Choice(
        plan=Plan(
            source=source,
            target=target[source],
            weight=np.ones(source.shape[0]),
            n_sources=n_queries,
            n_targets=len(estimate.models),
        ),
        score=score,
        propensity=np.ones(n_queries) if propensity is None else propensity,
        reasons=Reasons(n_queries, reason),
        probabilities=probabilities,
        reserved=reserved,
    )


def targets_of(choice: Choice) -> IntArray:
    """`[Q]` the chosen column of each query, -1 where it abstains."""
    target = np.full(choice.plan.n_sources, -1, dtype=np.intp)
    target[np.asarray(choice.plan.source)] = np.asarray(choice.plan.target)
    return target


def runner_up(score: Sequence[float], chosen: int) -> int | None:
    """The best column of one query's M scores besides `chosen`, None without another."""
    best, second = -math.inf, None
    for column, value in enumerate(score):
        if value > best and column != chosen:
            best, second = value, column
    return second


def check_number(
    policy: str, name: str, value: object, *, low: float = 0.0, high: float = float("inf")
) -> float:
    """`value` as a float in [low, high].

    Raises:
        PolicyError: it is not a number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyError(f"{policy}: {name}={value!r}, expected a number")
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise PolicyError(f"{policy}: {name}={value!r}, expected a number {bounds}")
    return float(value)


def require_known(
    policy: str, estimate: Estimate, column: str, allowed: BoolArray, way_out: str
) -> None:
    """Refuse an estimate whose `cost` or `latency` is unknown for an allowed model.

    Raises:
        PolicyError: names the models, and `way_out`.
    """
    unknown = np.isnan(getattr(estimate, column)) & allowed
    if unknown.any():
        names = [m for m, bad in zip(estimate.models, unknown.any(axis=0), strict=True) if bad]
        raise PolicyError(f"{policy}: the {column} of {names} is unknown; {way_out}")
