"""MetaLLM, MixLLM, C2MAB-V and PickLLM: their equations, budgets and limits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from wye.core.bandits import rounding_law
from wye.query import RouterError
from wye.query.c2mab_v import C2MABVRouter
from wye.query.learning.relaxed_set import relaxed_set
from wye.query.metallm import MetaLLMRouter
from wye.query.mixllm import MixLLMRouter
from wye.query.online.feedback import Observed, Outcome
from wye.query.pickllm import PickLLMRouter

ARMS = ("cheap", "dear")
PRICE = {"cheap": 0.01, "dear": 0.10}


def observed(quality: float, cost: float, latency: float = np.nan) -> Observed:
    return Observed.of([Outcome(quality=quality, cost=cost, latency=latency)])


def test_metallm_is_paid_quality_minus_price_times_cost() -> None:
    assert MetaLLMRouter(price=2.0).rewards(observed(0.8, 0.1), [None])[0, 0] == pytest.approx(0.6)
    assert MetaLLMRouter().rewards(observed(0.8, np.nan), [None])[0, 0] == 0.8
    assert np.isnan(MetaLLMRouter(price=2.0).rewards(observed(0.8, np.nan), [None])[0, 0])


def test_metallm_chooses_by_the_optimistic_reward_of_the_context() -> None:
    router = MetaLLMRouter(arms=ARMS, alpha=0.7, reg=2.0, width=8)
    rows, rewards = [], []
    for i in range(12):
        ticket = router.select(f"query {i}", allowed=["dear"])
        router.update(ticket, Outcome(quality=(i % 4) / 3))
        rows.append(ticket.context)
        rewards.append((i % 4) / 3)
    x = router.select("another query").context
    design = np.array(rows)
    precision = 2.0 * np.eye(design.shape[1]) + design.T @ design
    theta = np.linalg.solve(precision, design.T @ np.array(rewards))
    expected = theta @ x + 0.7 * np.sqrt(x @ np.linalg.solve(precision, x))
    score = router.select("another query").score
    assert score[1] == pytest.approx(expected)
    assert score[0] == pytest.approx(0.7 * np.sqrt(x @ x / 2.0))
    assert x @ x == pytest.approx(2.0)


def test_a_budget_turns_the_price_up_and_holds_the_mean_cost() -> None:
    router = MetaLLMRouter(arms=ARMS, budget=0.04, budget_rate=0.02, width=4)
    spent = []
    for i in range(300):
        ticket = router.select(f"query {i % 9}")
        target = ticket.target
        good = 1.0 if target == "dear" else 0.6
        router.update(ticket, Outcome(quality=good, cost=PRICE[target]))
        spent.append(PRICE[target])
        assert router.ledger_ is not None
        assert router.ledger_.price >= 0.0
    assert np.mean(spent[100:]) == pytest.approx(0.04, rel=0.15)
    assert 0.01 < np.mean(spent[100:]) < 0.10


def test_mixllm_feedback_is_yes_or_no() -> None:
    router = MixLLMRouter(satisfied=0.7)
    values = [router.rewards(observed(q, 0.1), [None])[0, 0] for q in (0.0, 0.69, 0.7, 1.0)]
    assert values == [0.0, 0.0, 1.0, 1.0]
    assert np.isnan(router.rewards(observed(np.nan, 0.1), [None])[0, 0])


def test_mixllm_weighs_quality_against_cost() -> None:
    chosen = {}
    for weight in (0.95, 0.3):
        router = MixLLMRouter(arms=ARMS, quality_weight=weight, width=4)
        for i in range(150):
            ticket = router.select(f"query {i % 9}")
            good = 1.0 if ticket.target == "dear" else float(i % 2)
            router.update(ticket, Outcome(quality=good, cost=PRICE[ticket.target]))
        chosen[weight] = router.select("query 3").target
    assert chosen == {0.95: "dear", 0.3: "cheap"}


def test_mixllm_leaves_a_model_that_keeps_one_waiting() -> None:
    router = MixLLMRouter(arms=ARMS, latency_weight=0.5, latency_slope=1.0, latency_limit=5.0)
    before = router.select("hello").score
    router.set_waits({"cheap": 7.0, "dear": 1.0})
    after = router.select("hello").score
    np.testing.assert_allclose(
        router_penalty := before - after,
        0.5 * np.exp([2.0, -4.0]) - 0.5 * np.exp([-5.0, -5.0]),
    )
    assert router_penalty[0] > 1.0
    assert router.select("hello").target == "dear"
    router.set_waits({"cheap": 1e9})
    assert np.isfinite(router.select("hello").score).all()
    with pytest.raises(RouterError, match="no model is named 'other'"):
        router.set_waits({"other": 1.0})


def test_pickllm_is_paid_by_three_weights() -> None:
    router = PickLLMRouter(quality_weight=2.0, cost_weight=3.0, latency_weight=0.5)
    assert router.rewards(observed(0.5, 0.1, 0.4), [None])[0, 0] == pytest.approx(1.0 - 0.3 - 0.2)
    assert np.isnan(router.rewards(observed(0.5, 0.1), [None])[0, 0])
    assert PickLLMRouter().rewards(observed(0.5, np.nan), [None])[0, 0] == 0.5


@pytest.mark.parametrize("algorithm", ["q-learning", "gradient"])
def test_pickllm_settles_on_the_model_that_pays_best(algorithm: str) -> None:
    router = PickLLMRouter(
        arms=("a", "b", "c"), algorithm=algorithm, cost_weight=5.0, rate=0.3, seed=2
    )
    pays = {"a": (0.9, 0.10), "b": (0.8, 0.01), "c": (0.3, 0.0)}
    targets = []
    for _ in range(400):
        ticket = router.select("hello")
        quality, cost = pays[ticket.target]
        router.update(ticket, Outcome(quality=quality, cost=cost))
        targets.append(ticket.target)
    assert targets[-100:].count("b") >= 90


def best_vertex(gain: np.ndarray, cost: np.ndarray, size: int, budget: float) -> float:
    """The best mix of two sets of at most `size` under the budget: the relaxed optimum."""
    sets = [s for n in range(size + 1) for s in combinations(range(gain.size), n)]
    worth = [(sum(cost[list(s)]), sum(gain[list(s)])) for s in sets]
    best = max(g for c, g in worth if c <= budget)
    for c1, g1 in worth:
        for c2, g2 in worth:
            if c1 <= budget < c2:
                share = (budget - c1) / (c2 - c1)
                best = max(best, (1 - share) * g1 + share * g2)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_relaxed_set_is_optimal_and_a_vertex(seed: int) -> None:
    generator = np.random.default_rng(seed)
    gain, cost = generator.random(5), generator.random(5)
    allowed = np.ones(5, bool)
    z = relaxed_set(gain, cost, allowed, size=2, budget=0.6)
    assert cost @ z <= 0.6 + 1e-9
    assert z.sum() <= 2 + 1e-9
    assert gain @ z == pytest.approx(best_vertex(gain, cost, 2, 0.6))
    assert ((z > 1e-9) & (z < 1 - 1e-9)).sum() <= 2
    spent = sum(p * cost[list(s)].sum() for s, p in rounding_law(z).items())
    assert spent == pytest.approx(cost @ z)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_relaxed_set_is_worth_what_a_linear_programme_finds(tied: bool, exact: bool) -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        m, size = generator.integers(1, 9), int(generator.integers(1, 5))
        gain = generator.integers(-2, 4, m) / 2 if tied else generator.normal(size=m)
        cost = generator.integers(0, 4, m) / 2 if tied else generator.random(m)
        allowed, budget = generator.random(m) < 0.8, float(generator.choice([0.3, 1.0, 2.5]))
        z = relaxed_set(gain, cost, allowed, size=size, budget=budget, exact=exact)
        n = min(size, int(allowed.sum()))
        solved = linprog(
            -gain,
            A_ub=np.stack([np.ones(m), cost]),
            b_ub=np.array([n, budget]),
            A_eq=np.ones((1, m)) if exact else None,
            b_eq=np.array([n]) if exact else None,
            bounds=[(0, float(a)) for a in allowed],
        )
        assert cost @ z <= budget + 1e-9
        assert z.sum() <= n + 1e-9
        assert ((z > 1e-9) & (z < 1 - 1e-9)).sum() <= 2
        if solved.fun is not None:
            assert gain @ z == pytest.approx(-solved.fun, abs=1e-9)
        else:
            # No set of that size is affordable: the cheapest that are.
            cheapest = np.sort(cost[allowed])
            assert z.sum() == (np.cumsum(cheapest)[:n] <= budget + 1e-9).sum() < n


def test_sets_without_a_budget_are_the_best_ones_and_never_hold_what_is_not_allowed() -> None:
    gain, allowed = np.array([3.0, 2.0, 1.0]), np.array([True, False, True])
    z = relaxed_set(gain, np.ones(3), allowed, size=2, budget=np.inf)
    assert z.tolist() == [1.0, 0.0, 1.0]
    short = relaxed_set(gain, np.ones(3), np.ones(3, bool), size=2, budget=1.2, exact=True)
    assert short.tolist() == [1.0, 0.0, 0.0]


def test_the_worth_of_sets() -> None:
    rewards = np.array([[0.5, 0.5, 0.2]])
    chosen = np.array([[True, True, False]])
    worth = {w: C2MABVRouter(worth=w).set_worth(rewards, chosen)[0] for w in ("any", "sum", "all")}
    assert worth == {"any": 0.75, "sum": 1.0, "all": 0.25}
    nothing = np.zeros((1, 3), bool)
    assert C2MABVRouter(worth="all").set_worth(rewards, nothing)[0] == 0.0


@pytest.mark.parametrize("worth", ["any", "sum", "all"])
def test_c2mab_v_learns_the_best_pair_within_its_budget(worth: str) -> None:
    quality = {"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.95}
    cost = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.9}
    router = C2MABVRouter(
        arms=tuple(quality), worth=worth, size=2, budget=0.3, max_cost=1.0, cost_bonus=0.01
    )
    generator = np.random.default_rng(0)
    sets = []
    for _ in range(160):
        _, expected_cost = router.optimistic()
        ticket = router.select("hello")
        assert router.shares_ @ expected_cost <= 0.3 + 1e-9
        assert 0.0 < ticket.propensity <= 1.0
        answers = {
            t: Outcome(quality=float(generator.random() < quality[t]), cost=cost[t])
            for t in ticket.targets
        }
        router.update(ticket, answers)
        sets.append(ticket.targets)
    spent = np.mean([sum(cost[t] for t in s) for s in sets[60:]])
    assert spent <= 0.3 * 1.25
    reward, optimistic_cost = router.optimistic()
    assert (reward >= np.array([0.85, 0.75, 0.25, 0.85])).all()
    assert (optimistic_cost <= np.array([0.1, 0.1, 0.1, 0.9]) + 1e-9).all()
    assert sum("c" not in s for s in sets[60:]) > 0.7 * len(sets[60:])


def test_one_outcome_is_not_enough_for_a_set() -> None:
    router = C2MABVRouter(arms=("a", "b", "c"))
    ticket = router.select("hello")
    assert len(ticket.targets) == 2
    with pytest.raises(RouterError, match="read `targets`"):
        router.update(ticket, Outcome(quality=1.0))
    with pytest.raises(RouterError, match="outcomes of"):
        router.update(ticket, {ticket.targets[0]: Outcome(quality=1.0)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetaLLMRouter(arms=ARMS, price=-1.0), "price is -1"),
        (lambda: MetaLLMRouter(arms=ARMS, width=0), "width is 0"),
        (lambda: MixLLMRouter(arms=ARMS, quality_weight=2.0), "quality_weight is 2"),
        (lambda: PickLLMRouter(arms=ARMS, algorithm="luck"), "algorithm is 'luck'"),
        (lambda: PickLLMRouter(arms=ARMS, cost_weight=-1.0), "cost_weight is -1"),
        (lambda: C2MABVRouter(arms=ARMS, worth="most"), "worth is 'most'"),
        (lambda: C2MABVRouter(arms=ARMS, size=0), "size is 0"),
        (lambda: C2MABVRouter(arms=ARMS, budget=0.0), "budget is 0"),
        (lambda: C2MABVRouter(arms=ARMS, delta=1.0), "delta is 1"),
    ],
)
def test_a_wrong_parameter_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RouterError, match=message):
        make().select("hello")
