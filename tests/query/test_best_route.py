"""BEST-Route: the cheapest target that matches, and targets that draw several answers."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import Estimate, RouterError, get_router
from wye.query.best_route import SampledAnswers, pick_best, with_best_of
from wye.query.policies import CheapestMatch
from wye.query.policies.choosing import targets_of
from wye.query.policy import PolicyError
from wye.testing import made_outcomes
from wye.testing.policy import check_policy


def estimate_of(quality: list[list[float]], cost: list[float]) -> Estimate:
    q = np.array(quality)
    return Estimate(
        models=tuple("abc"),
        quality=q,
        quality_std=np.full(q.shape, 0.1),
        cost=np.tile(cost, (len(q), 1)),
        latency=np.full(q.shape, np.nan),
        novelty=np.zeros(len(q)),
    )


def test_the_cheapest_match_answers_and_the_strong_one_where_none_does() -> None:
    estimate = estimate_of([[0.7, 0.8, 0.9], [0.5, 0.8, 0.9], [0.5, 0.5, 0.6]], [1, 2, 3])
    policy = CheapestMatch(cutoff=0.7, strong="c")
    assert targets_of(policy.choose(estimate)).tolist() == [0, 1, 2]
    by_name = CheapestMatch(cutoff={"a": 0.5, "b": 0.9, "c": 1.0}, strong="c")
    assert targets_of(by_name.choose(estimate)).tolist() == [0, 0, 0]


def test_a_match_dearer_than_the_strong_model_is_no_bargain() -> None:
    policy = CheapestMatch(cutoff=0.5, strong="b")
    assert targets_of(policy.choose(estimate_of([[0.2, 0.6, 0.9]], [1, 2, 3]))).tolist() == [1]


def test_without_the_strong_model_the_best_expected_one_stands_in() -> None:
    estimate = estimate_of([[0.3, 0.4, 0.9]], [1, 2, 3])
    allowed = np.array([True, True, False])
    choice = CheapestMatch(cutoff=0.7, strong="c").choose(estimate, allowed=allowed)
    assert targets_of(choice).tolist() == [1]
    assert "not allowed" in choice.reasons[0][0]


def test_the_policy_conforms() -> None:
    check_policy(CheapestMatch(cutoff=0.6, strong="large"))
    check_policy(CheapestMatch(cutoff=0.6))


def test_the_policy_refuses_what_it_cannot_use() -> None:
    estimate = estimate_of([[0.3, 0.4, 0.9]], [1, 2, 3])
    with pytest.raises(PolicyError, match="no model 'z'"):
        CheapestMatch(strong="z").choose(estimate)
    with pytest.raises(PolicyError, match=r"no cutoff for \['b', 'c'\]"):
        CheapestMatch(cutoff={"a": 0.1}).choose(estimate)
    with pytest.raises(PolicyError, match="cutoff"):
        CheapestMatch(cutoff=1.5)
    with pytest.raises(PolicyError, match="cost"):
        CheapestMatch().choose(estimate_of([[0.3, 0.4, 0.9]], [1, np.nan, 3]))


def test_thresholds_run_from_the_cheapest_to_the_strong_model() -> None:
    data = made_outcomes(150)
    router = get_router("best-route").fit(data)
    estimate = router.estimate(data.texts)
    cost = []
    for threshold in (0.0, 0.3, 0.6, 0.9, 1.0):
        target = targets_of(router.policy(threshold).choose(estimate))  # type: ignore[attr-defined]
        cost.append(estimate.cost[np.arange(len(target)), target].mean())
    assert (np.diff(cost) >= 0).all()
    assert cost[0] == pytest.approx(estimate.cost.min(axis=1).mean())
    assert cost[-1] == pytest.approx(estimate.cost[:, 0].mean())


def test_the_proxy_picks_the_best_of_n_answers() -> None:
    assert pick_best("q", ["aa", "b", "cccc", "dddd"], lambda query, answer: len(answer)) == 2
    with pytest.raises(RouterError, match="no answer"):
        pick_best("q", [], lambda query, answer: 0.0)
    with pytest.raises(RouterError, match="answer 1"):
        pick_best("q", ["a", "b"], lambda query, answer: float("nan") if answer == "b" else 0.0)


def sampled(n_queries: int, seed: int = 0) -> SampledAnswers:
    generator = np.random.default_rng(seed)
    quality = generator.integers(0, 2, (n_queries, 4)).astype(float)
    reward = quality + generator.normal(0, 0.5, quality.shape)
    return SampledAnswers("calculator", quality, reward, np.full(quality.shape, 1e-4))


def test_best_of_n_is_the_answer_with_the_highest_reward_and_costs_all_n() -> None:
    samples = sampled(10)
    quality, cost = samples.best_of(3)
    for q in range(10):
        assert quality[q] == samples.quality[q, samples.reward[q, :3].argmax()]
    np.testing.assert_allclose(cost, 3e-4)
    np.testing.assert_array_equal(samples.best_of(1)[0], samples.quality[:, 0])
    samples.quality[0, 2] = np.nan
    assert np.isnan(samples.best_of(3)[0][0])


def test_best_of_n_joins_a_log_as_a_target_of_its_own() -> None:
    data = made_outcomes(60)
    samples = sampled(60)
    longer = with_best_of(data, samples, (2, 4))
    assert longer.model_names == (*data.model_names, "calculator@2", "calculator@4")
    np.testing.assert_array_equal(longer.quality[:, -1], samples.best_of(4)[0])
    np.testing.assert_allclose(longer.cost[:, -2], 2e-4)
    np.testing.assert_array_equal(longer.quality[:, :4], data.quality)
    router = get_router("best-route").fit(longer)
    assert router.estimate(["Compute 3 + 4."]).models == longer.model_names


def test_samples_that_do_not_fit_the_log_are_refused() -> None:
    data, samples = made_outcomes(60), sampled(60)
    with pytest.raises(RouterError, match="from 1 to 4"):
        with_best_of(data, samples, (5,))
    with pytest.raises(RouterError, match="Q = 60"):
        with_best_of(data, sampled(50), (2,))
    with pytest.raises(RouterError, match="no model 'other'"):
        with_best_of(
            data, SampledAnswers("other", samples.quality, samples.reward, samples.cost), (2,)
        )
