"""Budgets: never overspent, paced, and how far from the optimum of hindsight."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.core import solve_budget
from wye.query.base import Estimate
from wye.query.policies import Budget, run_budget
from wye.query.policies.budget_stream import query_of
from wye.query.policies.choosing import targets_of
from wye.query.policy import PolicyError
from wye.testing.policy import example_estimate


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.02, 1.5),
    horizon=st.sampled_from([None, 10, 40]),
    worst_case=st.floats(1.0, 5.0),
    shortage=st.sampled_from(["degrade", "abstain"]),
    epsilon=st.sampled_from([0.0, 0.3]),
    router_cost=st.sampled_from([0.0, 1e-5]),
    told=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_budget_is_never_overspent_while_answers_keep_their_bound(
    seed, share, horizon, worst_case, shortage, epsilon, router_cost, told
):
    """Answers settle late and in any order, at up to `worst_case` times their estimates."""
    rng = np.random.default_rng(seed)
    base = example_estimate(40, seed=seed)
    estimate = Estimate(
        base.models,
        base.quality,
        base.quality_std,
        base.cost,
        base.latency,
        base.novelty,
        router_cost=router_cost if horizon == 40 else 0.0,
    )
    total = share * estimate.cost.mean() * 40 + 40 * estimate.router_cost
    policy = Budget(
        total=total,
        horizon=horizon,
        worst_case=worst_case,
        shortage=shortage,
        epsilon=epsilon if horizon else 0.0,
    )
    waiting = []
    for i in range(40):
        choice = policy.choose(query_of(estimate, i), generator=rng)
        target = targets_of(choice)[0]
        if target >= 0:
            cost = estimate.cost[i, target] * rng.uniform(0.0, worst_case)
            waiting.append((cost, choice.reserved[0] if told else None))
        while waiting and rng.random() < 0.5:
            cost, reserved = waiting.pop(int(rng.integers(len(waiting))))
            policy.settle(cost, reserved=reserved)
        assert policy.spent_ + sum(cost for cost, _ in waiting) <= total * (1 + 1e-9)
        if told:
            assert policy.reserved_ == pytest.approx(sum(held for _, held in waiting), abs=1e-12)
    for cost, reserved in waiting:
        policy.settle(cost, reserved=reserved)
    assert policy.spent_ <= total * (1 + 1e-9)
    assert policy.reserved_ == 0.0


@pytest.mark.parametrize("horizon", [None, 10])
def test_money_is_held_for_the_choices_that_are_out_and_for_no_other(horizon):
    estimate = example_estimate(1)
    policy = Budget(total=1.0, worst_case=1.0, horizon=horizon)
    dear = np.array([[False, False, True, False]])
    cheap = np.array([[True, False, False, False]])
    [first] = policy.choose(estimate, allowed=dear).reserved
    [second] = policy.choose(estimate, allowed=cheap).reserved
    assert policy.reserved_ == first + second
    policy.settle(0.0, reserved=first)
    assert policy.reserved_ == pytest.approx(second)
    with pytest.raises(PolicyError, match="no reserve of"):
        policy.settle(0.0, reserved=first)
    policy.settle(0.0, reserved=second)
    assert (policy.spent_, policy.reserved_) == (0.0, 0.0)


def test_an_answer_beyond_its_bound_exceeds_the_total_by_no_more_than_its_excess():
    estimate = example_estimate(1)
    cheapest = estimate.cost[0].min()
    policy = Budget(total=2 * cheapest, worst_case=2.0)
    assert targets_of(policy.choose(estimate))[0] == int(estimate.cost[0].argmin())
    policy.settle(5 * cheapest)
    assert policy.spent_ - policy.total == pytest.approx(3 * cheapest)
    assert targets_of(policy.choose(estimate))[0] == -1


def test_one_batch_gets_the_best_plan_that_fits():
    estimate = example_estimate(50)
    total = 0.4 * estimate.cost.max(axis=1).sum()
    choice = Budget(total=total, worst_case=1.0).choose(estimate)
    target = targets_of(choice)
    rows = np.arange(50)
    best = solve_budget(estimate.quality, estimate.cost, total)
    assert estimate.quality[rows, target].sum() == pytest.approx(best.score)
    assert estimate.cost[rows, target].sum() <= total * (1 + 1e-9)


def test_a_batch_that_cannot_all_be_answered_leaves_some_out():
    estimate = example_estimate(30)
    total = 0.3 * estimate.cost.min(axis=1).sum()
    choice = Budget(total=total, worst_case=1.0).choose(estimate)
    target = targets_of(choice)
    assert 0 < (target >= 0).sum() < 30
    assert "no model fits" in choice.reasons[int(np.flatnonzero(target < 0)[0])][0]


def test_a_second_batch_gets_what_the_first_left():
    estimate = example_estimate(20)
    policy = Budget(total=0.02, worst_case=1.0)
    policy.choose(estimate)
    first = policy.reserved_
    policy.choose(estimate)
    assert first < policy.reserved_ <= 0.02


def test_pacing_keeps_money_for_the_end_and_comes_close_to_hindsight():
    estimate = example_estimate(1000, seed=3)
    total = 0.3 * estimate.cost[:, 2].sum()
    run = run_budget(Budget(total=total, horizon=1000), estimate, estimate.quality, estimate.cost)
    assert run.answered == 1000
    assert run.spent <= total
    assert run.spent > 0.9 * total
    half = run.spent_after[499] / total
    assert 0.35 < half < 0.65
    # One over the square root of the horizon is the order of the regret of dual descent.
    assert 0 <= run.regret < 1 / np.sqrt(1000)
    greedy = run_budget(
        Budget(total=total, horizon=1000, learning_rate=1e-9),
        estimate,
        estimate.quality,
        estimate.cost,
    )
    assert greedy.regret > run.regret


def test_a_warm_start_begins_at_the_dual_price_of_a_sample():
    sample, stream = example_estimate(500, seed=4), example_estimate(500, seed=5)
    total = 0.25 * stream.cost[:, 2].sum()
    policy = Budget(total=total, horizon=500).warm_start(sample)
    expected = solve_budget(sample.quality, sample.cost, total, leave_out=True).price
    assert policy.price_ == pytest.approx(expected)
    assert run_budget(policy, stream, stream.quality, stream.cost).spent <= total


def test_router_cost_is_spent_and_held_back():
    base = example_estimate(10)
    estimate = Estimate(
        base.models,
        base.quality,
        base.quality_std,
        base.cost,
        base.latency,
        base.novelty,
        router_cost=0.01,
    )
    policy = Budget(total=0.1 + 1e-6, horizon=10)
    assert (targets_of(policy.choose(estimate)) == -1).all()
    assert policy.spent_ == pytest.approx(0.1)


def test_shortage_decides_between_the_next_best_and_nothing():
    quality = np.array([[0.5, 0.9]])
    estimate = Estimate(
        ("cheap", "dear"), quality, quality, np.array([[0.1, 1.0]]), quality, np.zeros(1)
    )
    for shortage, expected in (("degrade", 0), ("abstain", -1)):
        policy = Budget(total=0.9, horizon=1, worst_case=1.0, shortage=shortage)
        assert targets_of(policy.choose(estimate)).tolist() == [expected]


def test_exploration_under_a_budget_has_exact_propensities():
    estimate = example_estimate(3000, seed=6)
    policy = Budget(total=1e9, horizon=3000, epsilon=0.4)
    choice = policy.choose(estimate, generator=np.random.default_rng(0))
    target = targets_of(choice)
    greedy = target == estimate.quality.argmax(axis=1)
    assert np.allclose(choice.propensity[greedy], 0.7)
    assert np.allclose(choice.propensity[~greedy], 0.1)
    assert abs(greedy.mean() - 0.7) < 4 * np.sqrt(0.21 / 3000)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"total": -1.0}, "total=-1.0, expected a number at least 0"),
        ({"total": 1.0, "horizon": 0}, "at least 1 query"),
        ({"total": 1.0, "worst_case": 0.5}, "worst_case"),
        ({"total": 1.0, "shortage": "panic"}, "'degrade' or 'abstain'"),
        ({"total": 1.0, "epsilon": 0.1}, "needs a horizon"),
    ],
)
def test_wrong_parameters_are_refused(params, message):
    with pytest.raises(PolicyError, match=message):
        Budget(**params)


def test_a_settled_cost_must_be_money():
    with pytest.raises(PolicyError, match="expected finite USD"):
        Budget(total=1.0).settle(float("nan"))


def test_an_unknown_cost_cannot_be_budgeted():
    estimate = example_estimate(3)
    estimate.cost[:, 1] = np.nan
    with pytest.raises(PolicyError, match=r"\['middle'\] is unknown; a budget cannot hold"):
        Budget(total=1.0).choose(estimate)
