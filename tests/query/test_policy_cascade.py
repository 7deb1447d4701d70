"""Cascades: what a set of answers is worth, and the restrictions that give simpler policies."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from wye.query.base import Estimate
from wye.query.policies import Cascade, JudgeModel, Utility, run_cascade
from wye.query.policies.budget_stream import query_of
from wye.query.policies.choosing import targets_of
from wye.query.policies.supermodel import expected_maximum, plan_supermodels
from wye.query.policy import PolicyError
from wye.testing.policy import example_estimate


def judge(models, strength=0.8, correlation=0.3):
    m = len(models)
    return JudgeModel(
        models=tuple(models),
        bias=np.zeros(m),
        prior=np.ones(m),
        score=np.full(m, 0.7),
        strength=np.full(m, strength),
        correlation=np.full((m, m), correlation) + (1 - correlation) * np.eye(m),
        rows=np.full(m, 1000.0),
    )


def world(n, seed, *, models=3):
    """Right or wrong answers and a judge who usually knows; estimates are the true chances."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.4, 0.8, models)
    chance = np.clip(level + rng.normal(0, 0.1, (n, models)), 0.05, 0.95)
    quality = (rng.random((n, models)) < chance).astype(float)
    confidence = np.clip(0.5 + 0.35 * (2 * quality - 1) + rng.normal(0, 0.15, quality.shape), 0, 1)
    cost = np.tile(np.geomspace(0.001, 0.02, models), (n, 1))
    names = tuple("abcdef"[:models])
    return Estimate(names, chance, 0 * chance, cost, cost, np.zeros(n)), quality, confidence


def test_the_expected_maximum_of_one_is_its_mean():
    assert expected_maximum(np.array([0.3]), np.array([[4.0]])) == 0.3


@given(st.floats(-1, 1), st.floats(0.01, 2))
def test_the_expected_maximum_of_two_equal_independent_ones_is_known(mean, std):
    value = expected_maximum(np.full(2, mean), std**2 * np.eye(2))
    assert value == pytest.approx(mean + std / np.sqrt(np.pi))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_expected_maximum_agrees_with_draws(seed):
    rng = np.random.default_rng(seed)
    mean = rng.uniform(0, 1, 4)
    root = rng.normal(0, 0.15, (4, 4))
    covariance = root @ root.T
    drawn = rng.multivariate_normal(mean, covariance, 40_000).max(axis=1).mean()
    # Matching two moments after each pair is an approximation beyond two variables.
    slack = 0.15 * np.sqrt(np.diag(covariance).max())
    assert expected_maximum(mean, covariance) == pytest.approx(drawn, abs=slack)


def test_a_certain_maximum_needs_no_expectation():
    assert expected_maximum(np.array([0.2, 0.7, 0.4]), np.zeros((3, 3))) == pytest.approx(0.7)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 2.0, 20.0]), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_the_search_finds_the_best_of_all_sets(seed, judging_cost, done):
    rng = np.random.default_rng(seed)
    models, depth = 4, 3
    mean = rng.uniform(0.2, 0.9, (1, models))
    root = rng.normal(0, 0.2, (models, models))
    covariance = (root @ root.T)[None]
    price = rng.uniform(0, 0.1, (1, models))
    judging = judging_cost * 1e-3
    ran = np.zeros((1, models), dtype=bool)
    if done:
        ran[0, 2] = True
        covariance[:, 2, :] = covariance[:, :, 2] = 0
    plan = plan_supermodels(
        mean, covariance, price, judging, ran, np.ones_like(ran), depth=depth, beam=64
    )
    start = [2] if done else []
    best = mean[0, 2] if done else -np.inf

    def one_more(m):
        return expected_maximum(
            mean[0, [*start, m]], covariance[0][np.ix_([*start, m], [*start, m])]
        )

    fresh = [m for m in range(models) if m not in start]
    rank = sorted(fresh, key=lambda m: -(one_more(m) - price[0, m]))
    for size in range(1, depth - done + 1):
        for added in itertools.combinations(rank, size):
            members = [*start, *added]
            read = 0 if not done and size == 1 else size
            value = (
                expected_maximum(mean[0, members], covariance[0][np.ix_(members, members)])
                - price[0, list(added)].sum()
                - judging * read
            )
            best = max(best, value)
    assert plan.value[0] == pytest.approx(best, abs=1e-9)


def test_depth_one_decides_as_utility_does():
    estimate = example_estimate(300)
    for weight in (0.0, 40.0, 200.0):
        cascade = Cascade(cost_weight=weight, max_depth=1)
        cascade.judge_ = judge(estimate.models)
        expected = targets_of(Utility(cost_weight=weight).choose(estimate))
        assert (targets_of(cascade.choose(estimate)) == expected).all()


def test_a_judge_nobody_can_pay_leaves_routing():
    estimate = example_estimate(200)
    cascade = Cascade(cost_weight=50, judge_cost=1e6)
    cascade.judge_ = judge(estimate.models)
    expected = targets_of(Utility(cost_weight=50).choose(estimate))
    assert (targets_of(cascade.choose(estimate)) == expected).all()
    assert not cascade.open(query_of(estimate, 0)).step().judge


def test_a_fixed_order_is_a_threshold_cascade():
    """Going on exactly while the judged quality lies under the threshold of the next model."""
    names = ("a", "b")
    cascade = Cascade(cost_weight=10.0, judge_cost=0.001, order=names, max_depth=2)
    cascade.judge_ = judge(names, correlation=0.0)
    cost = np.array([[0.001, 0.005]])
    start = Estimate(names, np.array([[0.5, 0.7]]), np.zeros((1, 2)), cost, cost, np.zeros(1))
    variance = cascade.start(start).covariance[0, 1, 1]

    def gain(judged):
        pair = expected_maximum(np.array([judged, 0.7]), np.diag([0.0, variance]))
        return pair - judged - 10.0 * (0.005 + 0.001)

    threshold = brentq(gain, 0.0, 1.0)
    for score in np.linspace(0.01, 0.99, 60):
        run = cascade.open(start)
        assert run.step().model == "a"
        after = run.observe("a", float(score))
        judged = run.state.mean[0, 0]
        assert (after.action == "run") == (judged < threshold)


def test_without_a_price_everything_with_a_gain_runs_and_at_any_price_only_the_cheapest():
    estimate, quality, confidence = world(200, 0)
    free = Cascade(cost_weight=0.0, max_depth=3)
    free.judge_ = judge(estimate.models)
    plan = free.plan(free.start(estimate))
    assert plan.members.all()
    dear = Cascade(cost_weight=1e9, max_depth=3)
    dear.judge_ = judge(estimate.models)
    outcome = run_cascade(dear, estimate, quality, estimate.cost, confidence)
    assert outcome.called[:, 0].all()
    assert not outcome.called[:, 1:].any()


def test_every_answer_and_every_judgement_is_paid():
    estimate, quality, confidence = world(400, 1)
    cascade = Cascade(cost_weight=5.0, judge_cost=0.0004).fit(estimate, quality, confidence)
    outcome = run_cascade(cascade, estimate, quality, estimate.cost, confidence)
    calls = outcome.called.sum(axis=1)
    assert (calls > 1).any()
    expected = (outcome.called * estimate.cost).sum(axis=1) + 0.0004 * outcome.judged
    np.testing.assert_allclose(outcome.cost, expected)
    rows = np.arange(400)
    assert outcome.called[rows, outcome.returned].all()
    np.testing.assert_array_equal(outcome.quality, quality[rows, outcome.returned])


def test_the_run_over_a_set_is_the_step_by_step_run():
    estimate, quality, confidence = world(60, 2, models=4)
    cascade = Cascade(cost_weight=8.0, judge_cost=0.0002).fit(estimate, quality, confidence)
    outcome = run_cascade(cascade, estimate, quality, estimate.cost, confidence)
    for i in range(60):
        run = cascade.open(query_of(estimate, i))
        step, called = run.step(), []
        while step.action == "run":
            called.append(step.model)
            if not step.judge:
                break
            m = estimate.models.index(step.model)
            step = run.observe(step.model, float(confidence[i, m]))
        assert {estimate.models[m] for m in np.flatnonzero(outcome.called[i])} == set(called)
        assert estimate.models[outcome.returned[i]] == step.model


def test_a_good_judge_makes_a_cascade_better_than_routing_at_the_same_cost():
    train, test = world(2000, 3), world(2000, 4)
    cascade = Cascade(cost_weight=10.0).fit(*train)
    estimate, quality, confidence = test
    outcome = run_cascade(cascade, estimate, quality, estimate.cost, confidence)
    rows = np.arange(2000)
    points = [
        (estimate.cost[rows, t].mean(), quality[rows, t].mean())
        for t in (
            targets_of(Utility(cost_weight=w).choose(estimate)) for w in (0, 5, 10, 20, 40, 80)
        )
    ]
    cost, value = (np.array(x) for x in zip(*sorted(points), strict=True))
    routed = np.interp(outcome.cost.mean(), cost, value)
    gain = outcome.quality.mean() - routed
    assert gain > 3 * outcome.quality.std() / np.sqrt(2000)


def test_a_judge_who_says_nothing_is_learned_to_say_nothing():
    estimate, quality, confidence = world(4000, 5)
    noise = np.random.default_rng(6).random(confidence.shape)
    telling = JudgeModel.fit(estimate, quality, confidence)
    silent = JudgeModel.fit(estimate, quality, noise)
    assert (silent.strength < 0.15).all()
    assert (telling.strength > 0.5).all()
    assert np.linalg.eigvalsh(telling.correlation).min() > -1e-9
    np.testing.assert_allclose(np.diag(telling.correlation), 1.0)
    after = telling.posterior(estimate.quality, confidence)
    assert ((after - quality) ** 2).mean() < 0.6 * ((estimate.quality - quality) ** 2).mean()


def test_a_constant_score_is_no_news_however_wrong_the_estimate_is():
    estimate, quality, confidence = world(2000, 8)
    skewed = Estimate(
        estimate.models, estimate.quality**3, 0 * quality, estimate.cost, estimate.latency,
        estimate.novelty,
    )  # fmt: skip
    model = JudgeModel.fit(skewed, quality, np.full_like(confidence, 0.7))
    assert (model.strength < 0.01).all()


def test_what_a_judge_model_learned_survives_a_round_trip():
    model = JudgeModel.fit(*world(500, 7))
    again = JudgeModel.from_dict(model.to_dict())
    quality, confidence = np.full((2, 3), 0.4), np.full((2, 3), 0.9)
    np.testing.assert_array_equal(
        again.posterior(quality, confidence), model.posterior(quality, confidence)
    )
    np.testing.assert_array_equal(again.covariance(quality), model.covariance(quality))


def test_related_models_learn_from_each_others_answers():
    cascade = Cascade(cost_weight=1.0)
    cascade.judge_ = judge("ab", correlation=0.8)
    quality = np.array([[0.6, 0.6]])
    cost = np.array([[0.001, 0.002]])
    run = cascade.open(Estimate(("a", "b"), quality, 0 * quality, cost, cost, np.zeros(1)))
    run.observe("a", 0.05)
    assert run.state.mean[0, 0] < 0.6
    assert run.state.mean[0, 1] < 0.6
    assert run.state.covariance[0, 1, 1] < cascade.judge_.covariance(quality)[0, 1, 1]


def test_an_unheard_judge_leaves_the_estimates_and_ends_the_model():
    cascade = Cascade(cost_weight=1.0)
    cascade.judge_ = judge("ab")
    quality = np.array([[0.6, 0.5]])
    cost = np.array([[0.001, 0.002]])
    run = cascade.open(Estimate(("a", "b"), quality, 0 * quality, cost, cost, np.zeros(1)))
    run.observe("a", None)
    assert run.state.mean.tolist() == quality.tolist()
    assert (run.state.covariance[0, 0] == 0).all()


def test_wrong_observations_are_refused():
    run = Cascade().open(query_of(example_estimate(), 0))
    with pytest.raises(PolicyError, match="cannot observe 'nobody'"):
        run.observe("nobody", 0.5)
    with pytest.raises(PolicyError, match="expected 0 to 1"):
        run.observe("small", 1.5)
    with pytest.raises(PolicyError, match="takes one query, the estimate has 3"):
        Cascade().open(example_estimate(3))


def test_a_judge_that_never_saw_a_model_is_refused():
    cascade = Cascade()
    cascade.judge_ = judge("ab")
    with pytest.raises(PolicyError, match="never saw answers of"):
        cascade.choose(example_estimate(2))


def test_answers_that_are_all_right_teach_a_judge_nothing():
    estimate, quality, confidence = world(50, 8)
    with pytest.raises(PolicyError, match="teach nothing"):
        JudgeModel.fit(estimate, np.ones_like(quality), confidence)
