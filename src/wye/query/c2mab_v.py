"""C2MAB-V: a combinatorial bandit chooses a set of models for every query, under a budget.

Routes a query to a set of models, before any answer exists, on the outcomes of earlier choices
alone. Paper: arXiv 2405.16587.

    radius_m = sqrt(ln(2 pi^2 M t^3 / (3 delta)) / (2 N_m)) after t choices, N_m of them with m
    r^_m = min(1, mean reward + alpha_r radius_m)       optimistic reward
    c^_m = max(0, mean cost - alpha_c radius_m)         optimistic cost, in units of `max_cost`
    maximise sum_m g(r^_m) z_m  over 0 <= z_m <= 1, sum_m z_m <= n, sum_m c^_m z_m <= budget
    draw the set from z by dependent rounding, which keeps every z_m and the size

Three ways in which a set is worth something: `any` (one good answer suffices: 1 - prod (1 - r)),
`sum` (answers add up), `all` (every answer is needed: prod r, sets of exactly n). The relaxation is
linear in g = -ln(1 - r), r and ln r: the logarithms of what has to be missed, or hit. It is solved
exactly, at a vertex (`relaxed_set`) where at most two shares are fractional, so that the
probability of the drawn set is exact too.

Ours, following the published description and not its code: the linear forms of `any` and `all`, the
form of the radius, alpha_r = alpha_c = 0.3, and that outcomes which miss a cost teach the reward
alone. A model never tried has radius infinity: it is tried as soon as the budget has room.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits import (
    Bandit,
    EpsilonGreedy,
    dependent_rounding,
    rounding_law,
)
from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, NoContext, Task
from wye.query.learning.relaxed_set import relaxed_set
from wye.query.online.base import OnlineRouter
from wye.query.online.feedback import Observed

if TYPE_CHECKING:
    from wye.embed import Embedder

WORTHS = ("any", "sum", "all")
# Rewards this near to 0 or 1 have no finite logarithm.
_LEAST = 1e-3


@dataclass(kw_only=True, eq=False, repr=False)
class C2MABVRouter(OnlineRouter):
    """Sets of models by optimistic rewards and costs under a budget; see the module.

    Args:
        size: n, models in a set at most (exactly n for `all`).
        worth: `any`, `sum` or `all`.
        budget: USD that all answers of one query may cost together, by their optimistic costs; None
            for no budget.
        max_cost: USD of the dearest answer, which makes costs comparable with the radius; the
            largest seen where None.
        reward_bonus, cost_bonus: alpha_r, alpha_c.
        delta: probability that a bound may fail.
        arms, embedder, max_references, max_open, seed: see `OnlineRouter`; the embedder tells how
            new a query is and chooses nothing.

    Attributes:
        shares_: `[M]` z of the last choice.
    """

    name = "c2mab-v"

    size: int = 2
    worth: str = "any"
    budget: float | None = None
    max_cost: float | None = None
    reward_bonus: float = 0.3
    cost_bonus: float = 0.3
    delta: float = 0.05

    def _make_reader(self, embedder: Embedder) -> ContextReader:
        del embedder
        self._check_parameters()
        return NoContext()

    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        # Only its means and counts are read: the choice of a set is made here.
        return EpsilonGreedy(n_arms, width, epsilon=0.0, floor=0.0)

    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """Quality, `[Q, N]`."""
        del tasks
        return observed.quality

    def optimistic(self) -> tuple[FloatArray, FloatArray]:
        """Optimistic reward `[M]`, 0 to 1, and optimistic cost `[M]` in USD."""
        self._check_started()
        assert isinstance(self.bandit_, EpsilonGreedy)
        tried, charged = self.bandit_.count, self.heads_["cost"].count
        steps = max(1, int(tried.sum()))
        bound = np.log(2.0 * np.pi**2 * len(self.models_) * steps**3 / (3.0 * self.delta))
        reward = _mean(self.bandit_.total, tried) + self.reward_bonus * _radius(bound, tried)
        unit = float(np.max(self.heads_["cost"].high, initial=0.0))
        unit = self.max_cost if self.max_cost is not None else max(unit, 0.0)
        cost = _mean(self.heads_["cost"].total, charged)
        # Nothing times an infinite radius: without a unit of cost every model is free to try.
        less = self.cost_bonus * unit * _radius(bound, charged) if unit > 0 else cost
        return np.clip(reward, 0.0, 1.0), np.maximum(cost - less, 0.0)

    def _pick(
        self, context: FloatArray, mask: BoolArray
    ) -> tuple[tuple[int, ...], float, FloatArray]:
        del context
        reward, cost = self.optimistic()
        gain = _gain(reward, self.worth)
        budget = np.inf if self.budget is None else self.budget
        self.shares_ = relaxed_set(
            gain, cost, mask, size=self.size, budget=budget, exact=self.worth == "all"
        )
        drawn = np.flatnonzero(dependent_rounding(self.shares_, self.generator_))
        columns = tuple(drawn.tolist())
        propensity = rounding_law(self.shares_)[columns]
        return columns, propensity, np.where(mask, gain, -np.inf)

    def set_worth(self, rewards: FloatArray, chosen: BoolArray) -> FloatArray:
        """What chosen sets `[Q, M]` are worth `[Q]` at rewards `[Q, M]`; an empty one 0."""
        held = chosen.any(axis=1)
        if self.worth == "sum":
            return np.asarray(np.where(chosen, rewards, 0.0).sum(axis=1), np.float64)
        if self.worth == "any":
            missed = np.where(chosen, 1.0 - rewards, 1.0).prod(axis=1)
            return np.asarray(1.0 - missed, np.float64)
        return np.where(held, np.where(chosen, rewards, 1.0).prod(axis=1), 0.0)

    def _check_parameters(self) -> None:
        if self.worth not in WORTHS:
            raise RouterError(f"worth is {self.worth!r}, expected one of {list(WORTHS)}")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise RouterError(f"size is {self.size!r}, expected an integer of at least 1")
        for name in ("budget", "max_cost"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise RouterError(f"{name} is {value}, expected a number > 0, or None")
        for name in ("reward_bonus", "cost_bonus"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise RouterError(f"{name} is {getattr(self, name)}, expected a number >= 0")
        if not 0.0 < self.delta < 1.0:
            raise RouterError(f"delta is {self.delta}, expected a number between 0 and 1")


def _gain(reward: FloatArray, worth: str) -> FloatArray:
    if worth == "sum":
        return reward
    if worth == "any":
        return -np.log(np.maximum(1.0 - reward, _LEAST))
    return np.log(np.maximum(reward, _LEAST))


def _mean(total: FloatArray, count: NDArray[np.int64]) -> FloatArray:
    return np.asarray(total / np.maximum(count, 1), np.float64)


def _radius(bound: float, count: NDArray[np.int64]) -> FloatArray:
    """Half-width `[M]` of a bound that likely holds; very large where nothing is known."""
    return np.where(count > 0, np.sqrt(bound / (2.0 * np.maximum(count, 1))), 1e6)
