"""The best total score under a total cost: one target per source, one budget for all.

The multiple-choice knapsack problem
    maximise sum_s score[s, j_s]  subject to  sum_s cost[s, j_s] <= budget.
Its Lagrangian relaxation with a price p >= 0 splits by source, j_s(p) = argmax_t score - p cost,
and
    D(p) = sum_s max_t (score - p cost) + p budget
bounds the optimum from above (Everett 1963; Sinha and Zoltners 1979 for the choice per source). The
least D is found between two prices that close in on each other; a source whose choice is the same
at both keeps it and leaves the search. What is left between the bound and the best plan found
closes with an exact search over the few sources that can still matter: a target whose reduced
score lies further below its source's best than the gap is wide is in no better plan (Pisinger
1995).

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.exact_finish import finish
from wye.core.selection.inputs import check_scores, masked, refuse_nan

_ROUNDING = 1e-12
_MAX_ROUNDS = 200

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class BudgetSolution:
    """What `solve_budget` found.

    Attributes:
        plan: one pair for every source that has a target; `weight` is its score.
        score: total score of the plan.
        cost: total cost of the plan, at most the budget.
        bound: no plan within the budget scores more than this.
        price: the dual price, score that one more unit of budget is worth; 0 where the budget does
            not bind.
        optimal: whether `score` is proven best (up to rounding). False only where the exact search
            met its limit on states; `bound - score` then says how far off it can be.
    """

    plan: Plan
    score: float
    cost: float
    bound: float
    price: float
    optimal: bool


def within_budget(
    scores: Array,
    cost: Array,
    budget: float,
    *,
    allowed: Array | None = None,
    leave_out: bool = False,
) -> Plan:
    """Give every source one target so that the total score is best and the total cost in budget.

    Solved on the host in float64, whatever the arrays; `plan.weight` is the chosen score, gathered
    from `scores`, and carries its gradient.

    Ties: among equal scores the lower cost, then the lower target index; among plans of equal total
    any one. NaN: an error. No sources: an empty plan.

    Args:
        scores: `[S, T]`, any unit; -inf forbids a pair.
        cost: `[T]` or `[S, T]`, finite and >= 0 where allowed, same unit as `budget`.
        budget: total cost that may be spent, >= 0; infinity for no limit. Held up to a relative
            rounding of 1e-12.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair, whose cost is then not read.
        leave_out: a source may get no target at all, which scores 0 and costs 0.

    Raises:
        SelectionError: wrong shapes, NaN, negative cost, a source without an allowed target, or a
            budget below the least possible total cost (the message names it).

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.2, 0.9], [0.5, 0.6]])
        >>> within_budget(scores, np.array([1.0, 3.0]), 4.0).target.tolist()
        [1, 0]
    """
    return solve_budget(scores, cost, budget, allowed=allowed, leave_out=leave_out).plan


def solve_budget(
    scores: Array,
    cost: Array,
    budget: float,
    *,
    allowed: Array | None = None,
    leave_out: bool = False,
    max_states: int = 2_000_000,
) -> BudgetSolution:
    """As `within_budget`, with the totals, the upper bound and the dual price.

    Args:
        scores: `[S, T]`.
        cost: `[T]` or `[S, T]`.
        budget: total cost that may be spent.
        allowed: `[T]` or `[S, T]` booleans.
        leave_out: a source may get no target.
        max_states: limit on partial plans that the exact search holds at once; the problem is
            NP-hard, and beyond it the best plan found stands with `optimal=False`.

    Raises:
        SelectionError: as `within_budget`.
    """
    _, n_targets = check_scores(scores)
    value, price_of = _host_problem(scores, cost, budget, allowed, leave_out)
    search = _PriceSearch(value, price_of, float(budget))
    choice, price, bound = search.run()
    optimal = True
    gap = bound - _total(value, choice)
    if price > 0.0 and gap > _ROUNDING * max(1.0, abs(bound)):
        choice, optimal = finish(value, price_of, choice, price, search.limit, max_states)
    plan = _plan(scores, choice, n_targets)
    total = _total(value, choice)
    return BudgetSolution(
        plan=plan,
        score=total,
        cost=_total(price_of, choice),
        bound=max(bound, total) if not optimal else max(total, min(bound, total)),
        price=price,
        optimal=optimal,
    )


class _PriceSearch:
    """The price at which the relaxation is tightest, and the best plan met on the way."""

    def __init__(self, value: FloatArray, cost: FloatArray, budget: float) -> None:
        self.value = value
        self.cost = cost
        self.budget = budget
        self.limit = budget * (1.0 + _ROUNDING)

    def run(self) -> tuple[IntArray, float, float]:
        """Choice `[S]`, price and upper bound on the total score."""
        value, cost = self.value, self.cost
        greedy = _dearest_first(value, cost)
        if _total(cost, greedy) <= self.limit:
            return greedy, 0.0, _total(value, greedy)
        cheapest = _dearest_first(np.where(value == -np.inf, -np.inf, -cost), -value)
        least = _total(cost, cheapest)
        if least > self.limit:
            raise SelectionError(
                f"budget {self.budget:g} is below the least possible total cost {least:g} of "
                f"{value.shape[0]} sources: raise the budget, allow cheaper targets, or pass "
                "leave_out=True so that sources may go without"
            )
        return self._close_in(greedy, cheapest)

    def _close_in(self, over: IntArray, under: IntArray) -> tuple[IntArray, float, float]:
        # `over` spends too much at the lower price, `under` fits at the higher one. The price at
        # which both lines of the dual meet is either the minimum or splits the bracket.
        rows = np.nonzero(over != under)[0]
        choice = under.copy()
        fixed_cost = _total(self.cost, under) - _total(self.cost[rows], under[rows])
        value, cost, over, under = self.value[rows], self.cost[rows], over[rows], under[rows]
        low, high, price = 0.0, math.inf, 0.0
        for round_ in range(_MAX_ROUNDS):
            room = self.limit - fixed_cost
            v_over, c_over = _total(value, over), _total(cost, over)
            v_under, c_under = _total(value, under), _total(cost, under)
            price = (v_over - v_under) / (c_over - c_under)
            trial = price
            if round_ % 3 == 2 and math.isfinite(high):
                trial = 0.5 * (low + high)
            middle = _best_at(value, cost, trial)
            c_middle = _total(cost, middle)
            if trial == price:
                reduced = _total(value, middle) - price * c_middle
                if reduced - (v_over - price * c_over) <= _ROUNDING * max(1.0, abs(reduced)):
                    break
            if c_middle > room:
                low, over = trial, middle
            else:
                high, under = trial, middle
            settled = over == under
            if settled.any():
                done = rows[settled]
                choice[done] = under[settled]
                fixed_cost += _total(cost[settled], under[settled])
                left = ~settled
                rows, value, cost = rows[left], value[left], cost[left]
                over, under = over[left], under[left]
        choice[rows] = under
        choice = self._fill(choice, rows, over)
        best = np.max(self.value - price * self.cost, axis=1)
        return choice, price, float(np.sum(best)) + price * self.limit

    def _fill(self, choice: IntArray, rows: IntArray, over: IntArray) -> IntArray:
        """Move sources from the cheaper plan to the dearer one while the budget lasts."""
        before, after = choice[rows], over
        extra = self.cost[rows, after] - self.cost[rows, before]
        gain = self.value[rows, after] - self.value[rows, before]
        room = self.limit - _total(self.cost, choice)
        useful = np.nonzero((gain > 0) & (extra <= room))[0]
        useful = useful[np.argsort(extra[useful], kind="stable")]
        fits = np.cumsum(extra[useful]) <= room
        taken = useful[fits]
        choice[rows[taken]] = after[taken]
        return choice


def _host_problem(
    scores: Array, cost: Array, budget: float, allowed: Array | None, leave_out: bool
) -> tuple[FloatArray, FloatArray]:
    open_scores = masked(scores, allowed)
    refuse_nan(open_scores)
    value = np.array(arrays.to_numpy(open_scores), dtype=np.float64)
    shape = value.shape
    price_of = np.asarray(arrays.to_numpy(cost), dtype=np.float64)
    if price_of.shape not in (shape, shape[1:]):
        raise SelectionError(f"cost has shape {price_of.shape}, expected {shape} or {shape[1:]}")
    price_of = np.broadcast_to(price_of, shape)
    shut = value == -np.inf
    if np.isposinf(value).any():
        raise SelectionError("scores hold +inf, whose totals cannot be compared: use finite scores")
    if math.isnan(budget) or budget < 0:
        raise SelectionError(f"budget is {budget}, expected a total cost >= 0")
    bad = ~shut & ~((price_of >= 0) & (price_of < np.inf))
    if bad.any():
        s, t = (int(i) for i in np.argwhere(bad)[0])
        raise SelectionError(
            f"cost of source {s} at target {t} is {price_of[s, t]}, expected a finite number >= 0: "
            "impute it or forbid the pair with `allowed`"
        )
    if leave_out:
        value = np.concatenate([value, np.zeros((shape[0], 1))], axis=1)
        price_of = np.concatenate([price_of, np.zeros((shape[0], 1))], axis=1)
        shut = np.concatenate([shut, np.zeros((shape[0], 1), dtype=bool)], axis=1)
    stuck = shut.all(axis=1)
    if stuck.any():
        raise SelectionError(
            f"source {int(np.argmax(stuck))} has no allowed target ({int(stuck.sum())} such "
            "sources): allow one or pass leave_out=True"
        )
    if shut.any():
        price_of = np.where(shut, 0.0, price_of)
    return value, price_of


def _dearest_first(first: FloatArray, second: FloatArray) -> IntArray:
    """Per row the largest `first`; among equals the least `second`; then the lowest index."""
    if first.shape[0] == 0:
        return np.zeros(0, dtype=np.int64)
    peak = first.max(axis=1, keepdims=True)
    return np.asarray(np.argmin(np.where(first == peak, second, np.inf), axis=1), dtype=np.int64)


def _best_at(value: FloatArray, cost: FloatArray, price: float) -> IntArray:
    return np.asarray(np.argmax(value - price * cost, axis=1), dtype=np.int64)


def _total(matrix: FloatArray, choice: IntArray) -> float:
    return float(np.sum(matrix[np.arange(choice.shape[0]), choice]))


def _plan(scores: Array, choice: IntArray, n_targets: int) -> Plan:
    xp = namespace(scores)
    kept = choice < n_targets
    source = arrays.like(np.nonzero(kept)[0], scores, integer=True)
    target = arrays.like(choice[kept], scores, integer=True)
    rows = xp.take(scores, source, axis=0)
    weight = xp.reshape(arrays.gather(rows, target[:, None]), (-1,))
    return Plan(source, target, weight, int(scores.shape[0]), n_targets)
