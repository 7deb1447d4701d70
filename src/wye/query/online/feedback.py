"""What an online router hands out and gets back: tickets, outcomes, and the record of a replay.

Shape letters: Q queries, M models, D context width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError

NAN = float("nan")


@dataclass(frozen=True)
class Outcome:
    """What came out of one answer. NaN is unknown.

    Attributes:
        quality: 0 to 1.
        cost: USD.
        latency: seconds to the full answer.
        energy: joules.

    Raises:
        RouterError: a quality outside of 0 to 1, or another figure that is negative or infinite.

    Example:
        >>> Outcome(quality=1.0, cost=0.002).known
        True
    """

    quality: float = NAN
    cost: float = NAN
    latency: float = NAN
    energy: float = NAN

    def __post_init__(self) -> None:
        for name in ("quality", "cost", "latency", "energy"):
            value = getattr(self, name)
            high = 1.0 if name == "quality" else math.inf
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RouterError(f"outcome.{name} is {value!r}, expected a number, NaN if unknown")
            if not math.isnan(value) and (math.isinf(value) or not 0.0 <= value <= high):
                bounds = "from 0 to 1" if name == "quality" else "of at least 0"
                raise RouterError(f"outcome.{name} is {value}, expected a finite number {bounds}")

    @property
    def known(self) -> bool:
        """Whether the quality is known: without it nothing is learned."""
        return not math.isnan(self.quality)


@dataclass(frozen=True)
class Ticket:
    """One choice of an online router, to be given back with its outcome, once.

    Attributes:
        id: unique, sortable by time.
        targets: the chosen models; one, except for routers that choose a set.
        propensity: probability with which these targets are chosen for this query, in (0, 1].
        models: names of the M models at that time.
        score: `[M]` what the choice maximised; -inf where a model was not allowed.
        context: `[D]` what the bandit read of the query.
        task: the task that was given, or None.
    """

    id: str
    targets: tuple[str, ...]
    propensity: float
    models: tuple[str, ...]
    score: FloatArray = field(repr=False)
    context: FloatArray = field(repr=False)
    task: str | None = None

    @property
    def target(self) -> str:
        """The chosen model.

        Raises:
            RouterError: a set of several models, or of none, was chosen.
        """
        if len(self.targets) != 1:
            raise RouterError(f"the ticket is for {list(self.targets)}; read `targets`")
        return self.targets[0]


@dataclass(frozen=True)
class Observed:
    """Outcomes as arrays of one shape, NaN where unknown: quality, USD, seconds, joules."""

    quality: FloatArray
    cost: FloatArray
    latency: FloatArray
    energy: FloatArray

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Observed:
        """N outcomes as arrays `[N, 1]`."""
        columns = (
            np.array([[getattr(o, name)] for o in outcomes], np.float64)
            for name in ("quality", "cost", "latency", "energy")
        )
        return cls(*columns)

    def cell(self, row: int, column: int) -> Outcome:
        """One outcome."""
        names = ("quality", "cost", "latency", "energy")
        return Outcome(**{n: float(getattr(self, n)[row, column]) for n in names})


@dataclass(frozen=True)
class Replay:
    """What an online router did on a log of which it saw the outcomes of its own choices alone.

    Attributes:
        models: the M models.
        rows: `[Q]` query of the log at each step.
        chosen: `[Q, M]` which models were chosen at each step.
        propensity: `[Q]` of the choices.
        reward: `[Q]` what the router was paid, NaN where the outcome lacks a figure it needs.
        quality: `[Q]` quality of the choice; the best of a set.
        cost: `[Q]` USD of the choice, all of a set; NaN where unknown.
        best_reward: `[Q]` largest reward of any single model on the query.
    """

    models: tuple[str, ...]
    rows: NDArray[np.intp]
    chosen: BoolArray
    propensity: FloatArray
    reward: FloatArray
    quality: FloatArray
    cost: FloatArray
    best_reward: FloatArray

    def __len__(self) -> int:
        return int(self.rows.size)

    @property
    def regret(self) -> FloatArray:
        """`[Q]` cumulative regret against the best model of every query."""
        return np.asarray(np.nancumsum(self.best_reward - self.reward), np.float64)

    def shares(self, part: slice = slice(None)) -> dict[str, float]:
        """Share of the steps of `part` on which each model was chosen."""
        means = self.chosen[part].mean(axis=0)
        return dict(zip(self.models, means.tolist(), strict=True))
