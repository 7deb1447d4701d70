"""within_budget finds the best total score under a total cost, as an exact solver does."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from wye.core import SelectionError, solve_budget, top_k, within_budget
from wye.core.arrays import to_numpy


def by_enumeration(scores: np.ndarray, cost: np.ndarray, budget: float) -> float:
    rows = range(scores.shape[0])
    best = -np.inf
    for pick in itertools.product(range(scores.shape[1]), repeat=scores.shape[0]):
        if sum(cost[s, pick[s]] for s in rows) <= budget * (1 + 1e-12):
            best = max(best, sum(scores[s, pick[s]] for s in rows))
    return float(best)


def by_solver(scores: np.ndarray, cost: np.ndarray, budget: float) -> float:
    n, width = scores.shape
    once = np.kron(np.eye(n), np.ones(width))
    result = milp(
        -scores.ravel(),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(cost.ravel()[None], -np.inf, budget),
        ],
        integrality=np.ones(n * width, dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    assert result.success
    return -float(result.fun)


def check(scores: np.ndarray, cost: np.ndarray, budget: float, expected: float) -> None:
    found = solve_budget(scores, cost, budget)
    plan = found.plan.validate(distinct=True)
    full = np.broadcast_to(cost, scores.shape)
    spent = full[plan.source, plan.target].sum()
    assert plan.source.tolist() == list(range(scores.shape[0]))
    assert spent <= budget * (1 + 1e-9)
    assert found.cost == pytest.approx(spent)
    assert found.score == pytest.approx(scores[plan.source, plan.target].sum())
    assert found.optimal
    assert found.score == pytest.approx(expected, abs=1e-6)
    assert found.bound >= expected - 1e-6


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_best_of_all_plans_is_found_among_ties_and_zeros(data: st.DataObject) -> None:
    n, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    cells = st.lists(st.integers(0, 6), min_size=n * width, max_size=n * width)
    scores = np.array(data.draw(cells), dtype=float).reshape(n, width) - 2.0
    cost = np.array(data.draw(cells), dtype=float).reshape(n, width)
    least = cost.min(axis=1).sum()
    budget = least + data.draw(st.integers(0, 20))
    check(scores, cost, float(budget), by_enumeration(scores, cost, float(budget)))


@pytest.mark.parametrize("seed", range(25))
def test_the_optimum_equals_that_of_an_integer_programme(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(8, 40)), int(rng.integers(2, 8))
    scores, cost = rng.random((n, width)), rng.exponential(size=(n, width))
    low, high = cost.min(axis=1).sum(), cost.max(axis=1).sum()
    budget = float(low + (high - low) * rng.random())
    check(scores, cost, budget, by_solver(scores, cost, budget))


@pytest.mark.parametrize("seed", range(8))
def test_one_price_per_target_and_correlated_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.geomspace(0.001, 1.0, 5)
    scores = np.clip(np.linspace(0.3, 0.8, 5) + 0.3 * rng.normal(size=(30, 5)), 0, 1)
    budget = 30 * 0.1
    full = np.broadcast_to(cost, scores.shape)
    check(scores, cost, budget, by_solver(scores, full, budget))


def test_an_ample_budget_gives_the_best_targets() -> None:
    rng = np.random.default_rng(0)
    scores, cost = rng.random((50, 6)), rng.random((50, 6))
    found = solve_budget(scores, cost, float("inf"))
    assert found.plan.target.tolist() == top_k(scores).target.tolist()
    assert (found.price, found.optimal, found.bound) == (0.0, True, found.score)


def test_among_equal_scores_the_cheaper_target_is_taken() -> None:
    scores = np.array([[0.5, 0.5, 0.5]])
    assert within_budget(scores, np.array([3.0, 1.0, 1.0]), 10.0).target.tolist() == [1]


def test_the_least_budget_gives_the_cheapest_targets() -> None:
    rng = np.random.default_rng(1)
    scores, cost = rng.random((40, 5)), rng.random((40, 5))
    plan = within_budget(scores, cost, float(cost.min(axis=1).sum()))
    assert plan.target.tolist() == cost.argmin(axis=1).tolist()


def test_more_budget_never_scores_less_and_the_price_falls() -> None:
    rng = np.random.default_rng(2)
    scores, cost = rng.random((300, 6)), rng.random((300, 6))
    low, high = cost.min(axis=1).sum(), cost.max(axis=1).sum()
    found = [solve_budget(scores, cost, float(b)) for b in np.linspace(low, high, 25)]
    totals, prices = [f.score for f in found], [f.price for f in found]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(totals))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(prices))


@pytest.mark.parametrize("kind", ["continuous", "one price per target", "coarse scores"])
def test_a_large_batch_comes_within_a_hair_of_the_bound(kind: str) -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    scores = np.clip(np.linspace(0.3, 0.7, 9) + 0.3 * rng.normal(size=(n, 9)), 0, 1)
    cost = np.geomspace(1e-5, 1e-2, 9)
    if kind == "continuous":
        cost = cost * rng.lognormal(sigma=0.5, size=(n, 1))
    if kind == "coarse scores":
        scores = np.round(scores, 1)
    budget = 0.1 * float(np.broadcast_to(cost, scores.shape).max(axis=1).sum())
    found = solve_budget(scores, cost, budget)
    assert found.cost <= budget * (1 + 1e-9)
    # One source's price bound: the linear relaxation leaves at most one source divided.
    assert found.bound - found.score <= found.price * float(np.max(cost))


def test_the_search_limit_is_honest_about_what_it_proved() -> None:
    rng = np.random.default_rng(4)
    scores, cost = rng.random((5000, 6)), rng.random((5000, 6))
    budget = 0.2 * float(cost.max(axis=1).sum())
    quick = solve_budget(scores, cost, budget, max_states=1)
    full = solve_budget(scores, cost, budget)
    assert full.optimal
    assert not quick.optimal
    assert quick.score <= full.score <= quick.bound + 1e-9
    assert quick.cost <= budget * (1 + 1e-9)


@pytest.mark.parametrize("step", [1.0, 0.1])
def test_scores_on_a_grid_are_solved_to_proof(step: float) -> None:
    rng = np.random.default_rng(5)
    n = 5000
    cost = np.geomspace(1e-4, 1e-2, 6)
    scores = step * rng.integers(0, round(1 / step) + 1, size=(n, 6))
    small, large = slice(0, 40), slice(0, n)
    full = np.broadcast_to(cost, scores.shape)
    budget = 0.05 * float(full.max(axis=1).sum())
    found = solve_budget(scores[large], cost, budget)
    assert found.optimal
    assert found.cost <= budget * (1 + 1e-9)
    check(scores[small], cost, budget / 125, by_solver(scores[small], full[small], budget / 125))


def test_a_source_may_be_left_out_only_when_that_is_allowed() -> None:
    scores, cost = np.array([[0.9], [0.4], [-1.0]]), np.ones((3, 1))
    with pytest.raises(SelectionError, match="least possible total cost 3"):
        within_budget(scores, cost, 1.5)
    plan = within_budget(scores, cost, 1.5, leave_out=True)
    assert (plan.source.tolist(), plan.n_targets) == ([0], 1)
    assert within_budget(scores, cost, 99.0, leave_out=True).source.tolist() == [0, 1]


def test_a_forbidden_pair_is_not_taken_and_its_cost_not_read(to_array: Any) -> None:
    scores = to_array(np.array([[0.9, 0.15, 0.1], [0.9, 0.5, 0.4]]))
    cost = to_array(np.array([[np.nan, 1.0, 0.0], [2.0, 1.0, 0.0]]))
    allowed = to_array(np.array([[False, True, True], [True, True, True]]))
    assert to_numpy(within_budget(scores, cost, 3.0, allowed=allowed).target).tolist() == [1, 0]
    assert to_numpy(within_budget(scores, cost, 1.0, allowed=allowed).target).tolist() == [2, 1]
    assert to_numpy(within_budget(scores, cost, 0.0, allowed=allowed).target).tolist() == [2, 2]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1000))
def test_every_array_library_gives_the_same_plan(seed: int, to_array: Any) -> None:
    rng = np.random.default_rng(seed)
    scores, cost = rng.random((12, 4)), rng.random(4)
    budget = 12 * float(cost.mean())
    plan = within_budget(to_array(scores), to_array(cost), budget).validate()
    reference = within_budget(scores, cost, budget)
    assert to_numpy(plan.target).tolist() == reference.target.tolist()
    np.testing.assert_array_equal(to_numpy(plan.weight), reference.weight)


@pytest.mark.parametrize(
    ("scores", "cost", "budget", "said"),
    [
        ([[0.1, np.nan]], [1.0, 1.0], 1.0, "NaN, first in row 0"),
        ([[0.1, 0.2]], [1.0, np.nan], 1.0, "source 0 at target 1 is nan"),
        ([[0.1, 0.2]], [1.0, -1.0], 1.0, "source 0 at target 1 is -1.0"),
        ([[0.1, 0.2]], [1.0], 1.0, r"expected \(1, 2\) or \(2,\)"),
        ([[0.1, 0.2]], [1.0, 1.0], -1.0, "budget is -1.0"),
        ([[0.1, 0.2]], [1.0, 1.0], float("nan"), "budget is nan"),
        ([[0.1, np.inf]], [1.0, 1.0], 2.0, "finite scores"),
        ([[-np.inf, -np.inf]], [1.0, 1.0], 2.0, "source 0 has no allowed target"),
    ],
)
def test_what_cannot_be_solved_is_refused(scores: Any, cost: Any, budget: Any, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        within_budget(np.array(scores), np.array(cost), budget)


def test_no_sources_cost_nothing(to_array: Any) -> None:
    plan = within_budget(to_array(np.zeros((0, 3))), to_array(np.ones(3)), 0.0)
    assert (len(plan.validate()), plan.n_sources, plan.n_targets) == (0, 0, 3)
