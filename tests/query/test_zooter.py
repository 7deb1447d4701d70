"""ZOOTER: smoothed rewards and their distillation."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import RouterError, get_router
from wye.query.zooter import ZooterEstimator, kl_to_target, smoothed, softmax
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs


def test_smoothing_equals_the_formula_by_loops() -> None:
    generator = np.random.default_rng(0)
    quality, tags = generator.random((30, 3)), generator.integers(4, size=30)
    made = smoothed(quality, tags, 0.3)
    for q in range(30):
        for m in range(3):
            of_tag = np.mean([quality[i, m] for i in range(30) if tags[i] == tags[q]])
            assert made[q, m] == pytest.approx(0.3 * quality[q, m] + 0.7 * of_tag)


def test_an_unknown_reward_is_that_of_its_tag_or_else_of_its_model() -> None:
    quality = np.array([[1.0, np.nan], [0.5, 1.0], [0.0, np.nan]])
    made = smoothed(quality, np.array([0, 0, 1]), 0.3)
    assert made[0, 1] == pytest.approx(1.0)
    assert np.isfinite(made).all()


def test_beta_one_keeps_rewards_and_beta_zero_keeps_tags() -> None:
    quality = np.random.default_rng(1).random((10, 2))
    tags = np.arange(10) % 2
    np.testing.assert_allclose(smoothed(quality, tags, 1.0), quality)
    none = smoothed(quality, tags, 0.0)
    np.testing.assert_allclose(none[::2], np.broadcast_to(quality[::2].mean(axis=0), (5, 2)))


def test_the_gradient_of_the_divergence_is_that_of_finite_differences() -> None:
    generator = np.random.default_rng(2)
    columns, target = generator.normal(size=(12, 3)), softmax(generator.normal(size=(12, 4)))
    at = {"weight": generator.normal(size=(3, 4)), "bias": generator.normal(size=4)}
    _, gradient = kl_to_target(columns, target, at)
    for name, array in at.items():
        for place in np.ndindex(array.shape):
            moved = {k: v.copy() for k, v in at.items()}
            moved[name][place] += 1e-6
            up = kl_to_target(columns, target, moved)[0]
            moved[name][place] -= 2e-6
            slope = (up - kl_to_target(columns, target, moved)[0]) / 2e-6
            assert gradient[name][place] == pytest.approx(slope, abs=1e-6)


def test_the_divergence_of_a_distribution_from_itself_is_zero_and_else_positive() -> None:
    logits = np.random.default_rng(3).normal(size=(5, 3))
    same = {"weight": np.eye(3), "bias": np.zeros(3)}
    assert kl_to_target(logits, softmax(logits), same)[0] == pytest.approx(0.0, abs=1e-12)
    assert kl_to_target(logits, softmax(-logits), same)[0] > 0.01


def test_where_texts_are_all_alike_the_gaps_are_those_of_the_means() -> None:
    quality = np.random.default_rng(4).random((40, 3)) * [1.0, 0.5, 0.2]
    inputs = made_inputs(np.ones((40, 4)), dataset="one")
    made, _ = ZooterEstimator(beta=0.0).fit(inputs, quality).predict(inputs)
    np.testing.assert_allclose(made[0], quality.mean(axis=0), atol=2e-3)


def test_tags_are_the_datasets_of_the_log_and_else_clusters() -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 4))
    several, one = made_inputs(vectors), made_inputs(vectors, dataset="one")
    estimator = ZooterEstimator(n_clusters=5)
    named = estimator._tags(several)
    assert len(set(named.tolist())) == 2
    assert ((vectors[:, 0] > 0) == (named == named[vectors[:, 0] > 0][0])).all()
    assert len(set(estimator._tags(one).tolist())) > 2
    assert len(set(ZooterEstimator(tag="cluster")._tags(several).tolist())) > 2


@pytest.mark.parametrize("wrong", [{"beta": 1.5}, {"temperature": 0.0}, {"tag": "topic"}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("zooter", **wrong).fit(made_outcomes(20))
