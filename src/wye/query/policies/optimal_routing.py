"""Optimal routing: one exchange rate and one coin that spend a mean budget exactly.

Decides before an answer, on the estimate alone; K2 of the survey arXiv 2603.04445 (Dekoninck,
Baader and Vechev, arXiv 2410.10347, section 2). On queries to learn from:

    choose argmax_m q_m - lambda c_m, lambda by bisection (its upper end doubled first) so that the
    mean cost meets the budget B; there, queries are indifferent between a cheapest and a dearest
    maximiser, and the dearest is taken with probability
    gamma = (B - cost_cheap) / (cost_dear - cost_cheap)

so the expected mean cost on those queries is B exactly. What `fit` found serves any query after it.
For a hard total on a stream see `Budget`.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import numpy as np

from wye.query.policies.choosing import (
    NOTHING_ALLOWED,
    IntArray,
    Reason,
    allowed_models,
    best_target,
    check_number,
    require_known,
    write_choice,
)
from wye.query.policy import Choice, Policy, PolicyError
from wye.query.wording import usd

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray

_STEPS = 60
_ROUNDING = 1e-9


class OptimalRouting(Policy):
    """argmax of quality - price x USD, ties between cheapest and dearest by a coin.

    Args:
        budget: mean USD of a query that `fit` aims at.
        price: quality per USD, lambda; found by `fit`.
        coin: probability of the dearest among equal models, gamma; found by `fit`.

    Raises:
        PolicyError: a parameter out of range.

    Example:
        >>> OptimalRouting(budget=0.002, price=50).describe()
        'optimal-routing(budget=0.002, price=50.0, coin=0.0)'
    """

    name = "optimal-routing"

    def __init__(self, *, budget: float = math.inf, price: float = 0.0, coin: float = 0.0) -> None:
        self.budget = check_number(self.name, "budget", budget)
        self.price = check_number(self.name, "price", price)
        self.coin = check_number(self.name, "coin", coin, high=1.0)

    def fit(self, estimate: Estimate, *, allowed: BoolArray | None = None) -> Self:
        """Find price and coin that meet the budget on these queries in expectation.

        A budget beyond what quality alone spends is not spent: price 0, the dearest of equals only
        where the budget pays for it.

        Raises:
            PolicyError: no query, an unknown cost, or a budget below the cheapest choice of all.
        """
        mask = self._priced(estimate, allowed)
        if not mask.any():
            raise PolicyError(
                "optimal-routing: no query with an allowed model to learn a price from"
            )
        least = float(self._cost(estimate, mask, math.inf)[0].mean())
        if self.budget < least * (1.0 - _ROUNDING):
            raise PolicyError(
                f"optimal-routing: the cheapest allowed models cost {usd(least)} a query, more "
                f"than the budget of {usd(self.budget)}; raise it, or allow none for some queries"
            )
        self.price = self._find_price(estimate, mask, least)
        cheap, dear = (float(c.mean()) for c in self._cost(estimate, mask, self.price))
        room = dear - cheap
        self.coin = min(max((self.budget - cheap) / room, 0.0), 1.0) if room > 0 else 0.0
        return self

    def choose(
        self,
        estimate: Estimate,
        *,
        allowed: BoolArray | None = None,
        generator: np.random.Generator | None = None,
    ) -> Choice:
        """Choose argmax per query; a fresh unseeded generator flips the coin when none is given.

        Raises:
            PolicyError: the cost of an allowed model is unknown.
        """
        mask = self._priced(estimate, allowed)
        score = self._score(estimate, mask, self.price)
        cheap, dear = self._ends(estimate, score)
        rng = np.random.default_rng() if generator is None else generator
        heads = rng.random(len(estimate)) < self.coin
        target = np.where(heads, dear, cheap)
        open_ = cheap != dear
        propensity = np.where(open_, np.where(heads, self.coin, 1.0 - self.coin), 1.0)
        law = np.zeros(score.shape)
        for end, share in ((dear, self.coin), (cheap, 1.0 - self.coin)):
            rows = np.flatnonzero(end >= 0)
            law[rows, end[rows]] += share

        def reason(i: int) -> Reason:
            chosen = int(target[i])
            if chosen < 0:
                return NOTHING_ALLOWED
            first = (
                f"{estimate.models[chosen]} has the highest quality after cost, "
                f"{score[i, chosen]:.3f}: expected quality {estimate.quality[i, chosen]:.3f} - "
                f"{self.price:g} x {usd(float(estimate.cost[i, chosen]))}"
            )
            if not open_[i]:
                return (first,)
            other = estimate.models[int(dear[i] if chosen == cheap[i] else cheap[i])]
            second = (
                f"{other} is worth the same; a coin that takes the dearer with probability "
                f"{self.coin:.3f} decided, which spends the budget"
            )
            return (first, second)

        return write_choice(estimate, score, target, reason, propensity, law)

    def _find_price(self, estimate: Estimate, mask: BoolArray, least: float) -> float:
        """The least price whose cheapest choices fit the budget."""

        def fits(price: float) -> bool:
            return float(self._cost(estimate, mask, price)[0].mean()) <= self.budget

        if fits(0.0):
            return 0.0
        high = 1.0 / max(least, 1e-12)
        while not fits(high):
            high *= 2.0
            if high > 1e300:
                return high
        low = 0.0
        for _ in range(_STEPS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if fits(middle) else (middle, high)
        return self._breakpoint(estimate, mask, low, high)

    def _breakpoint(self, estimate: Estimate, mask: BoolArray, low: float, high: float) -> float:
        """The price at which the cheapest choice changes between `low` and `high`, exactly.

        Bisection alone stops beside it, where nothing is tied and no coin can spend the rest.
        """
        before, after = (
            self._ends(estimate, self._score(estimate, mask, price))[0] for price in (low, high)
        )
        rows = np.flatnonzero((before != after) & (before >= 0))
        if not rows.size:
            return high
        quality, cost = estimate.quality[rows], estimate.cost[rows]
        at = np.arange(rows.size)
        gap = cost[at, before[rows]] - cost[at, after[rows]]
        gain = quality[at, before[rows]] - quality[at, after[rows]]
        kept = gap > 0
        return float((gain[kept] / gap[kept]).max()) if kept.any() else high

    def _cost(
        self, estimate: Estimate, mask: BoolArray, price: float
    ) -> tuple[FloatArray, FloatArray]:
        """`[Q']` cost of the cheapest and of the dearest maximiser of queries with a model."""
        if math.isinf(price):
            score = np.where(mask, -estimate.cost, -np.inf)
        else:
            score = self._score(estimate, mask, price)
        ends = self._ends(estimate, score)
        rows = np.flatnonzero(mask.any(axis=1))
        cheap, dear = (estimate.cost[rows, end[rows]] for end in ends)
        return cheap, dear

    def _score(self, estimate: Estimate, mask: BoolArray, price: float) -> FloatArray:
        paid = price * estimate.cost if price else 0.0
        return np.where(mask, estimate.quality - paid, -np.inf)

    def _ends(self, estimate: Estimate, score: FloatArray) -> tuple[IntArray, IntArray]:
        """The cheapest and the dearest of the best models of each query, `[Q]` each."""
        if not score.shape[1]:
            none = np.full(score.shape[0], -1, np.intp)
            return none, none
        top = score.max(axis=1, keepdims=True)
        # A price found by division ties two models up to its rounding.
        slack = _ROUNDING * np.maximum(1.0, np.abs(np.where(np.isneginf(top), 0.0, top)))
        tied = np.where(score >= top - slack, np.where(np.isneginf(top), -np.inf, 0.0), -np.inf)
        return best_target(tied, estimate.cost), best_target(tied, -estimate.cost)

    def _priced(self, estimate: Estimate, allowed: BoolArray | None) -> BoolArray:
        mask = allowed_models(estimate, allowed)
        require_known(
            self.name,
            estimate,
            "cost",
            mask,
            "give their prices in the models table and fit again, or leave them out with `allowed`",
        )
        return mask
