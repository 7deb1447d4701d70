"""IRT: its likelihood, its limits, and a model that joins by its ability alone."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.query import IRTRouter, RouterError, get_router
from wye.query.irt import IRTEstimator, ability, chances, cross_entropy
from wye.testing import made_outcomes
from wye.testing.query_data import chance_of_success, made_inputs


def test_the_chance_rises_with_every_ability() -> None:
    generator = np.random.default_rng(0)
    items = np.abs(generator.normal(size=(40, 4))) + 1e-3
    items[:, -1] = generator.normal(size=40)
    theta = generator.normal(size=(5, 3))
    before = chances(items, theta)
    for k in range(3):
        assert (chances(items, theta + 0.1 * np.eye(3)[k]) > before).all()


def test_a_fitted_encoder_keeps_discrimination_above_zero() -> None:
    generator = np.random.default_rng(1)
    inputs, quality = made_inputs(generator.normal(size=(60, 4))), generator.random((60, 3))
    estimator = IRTEstimator(n_abilities=3).fit(inputs, quality)
    before = estimator.predict(inputs)[0]
    assert (estimator.items(inputs)[:, :-1] > 0).all()
    estimator.theta_ += np.array([[0.5], [0.0], [0.0]])
    after = estimator.predict(inputs)[0]
    assert (after[:, 0] > before[:, 0]).all()
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])


def test_the_gradient_is_that_of_finite_differences() -> None:
    generator = np.random.default_rng(2)
    x, quality = generator.normal(size=(9, 3)), generator.random((9, 4))
    known = generator.random(quality.shape) < 0.7
    at = {
        "discrimination": generator.normal(size=(3, 2)),
        "difficulty": generator.normal(size=3),
        "theta": generator.normal(size=(4, 2)),
        "base": generator.normal(size=(4, 1)),
    }
    _, gradient = cross_entropy(x, quality, known, at)
    for name, array in at.items():
        for place in np.ndindex(array.shape):
            moved = {k: v.copy() for k, v in at.items()}
            moved[name][place] += 1e-6
            up = cross_entropy(x, quality, known, moved)[0]
            moved[name][place] -= 2e-6
            slope = (up - cross_entropy(x, quality, known, moved)[0]) / 2e-6
            assert gradient[name][place] == pytest.approx(slope, abs=1e-6)


def test_an_ability_is_found_again_from_many_answers() -> None:
    generator = np.random.default_rng(3)
    items = np.abs(generator.normal(size=(20_000, 3)))
    items[:, -1] = generator.normal(size=20_000)
    theta = np.array([1.5, -0.5])
    quality = (generator.random(20_000) < chances(items, theta[None])[:, 0]).astype(float)
    found, covariance = ability(items, quality, np.zeros(2), np.eye(2))
    assert np.abs(found - theta).max() < 5 * np.sqrt(np.diag(covariance).max())
    assert np.abs(found - theta).max() < 0.15


def test_an_ability_is_the_mode_of_its_posterior_and_without_answers_its_prior() -> None:
    generator = np.random.default_rng(4)
    items, quality = np.abs(generator.normal(size=(12, 4))), generator.random(12)
    prior, precision = generator.normal(size=3), np.diag([0.5, 1.0, 2.0])
    found, _ = ability(items, quality, prior, precision)
    a = items[:, :-1]
    gradient = a.T @ (chances(items, found[None])[:, 0] - quality) + precision @ (found - prior)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    nothing, covariance = ability(items[:0], quality[:0], prior, precision)
    np.testing.assert_allclose(nothing, prior)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision))


def test_a_new_query_is_warmed_up_by_its_neighbours() -> None:
    generator = np.random.default_rng(5)
    inputs, quality = made_inputs(generator.normal(size=(50, 4))), generator.random((50, 3))
    estimator = IRTEstimator(n_neighbours=4, warm_start=0.3).fit(inputs, quality)
    own = estimator.encode(inputs)
    near = own[inputs.neighbours.index[:, :4]].mean(axis=1)
    np.testing.assert_allclose(estimator.items(inputs), 0.7 * own + 0.3 * near)
    estimator.warm_start = 0.0
    np.testing.assert_array_equal(estimator.items(inputs), own)


def test_a_model_joins_by_ability_alone_from_fifty_answers() -> None:
    data, newcomer = made_outcomes(300, seed=8), "coder"
    names = data.model_names
    router = IRTRouter().fit(data.with_models([n for n in names if n != newcomer]))
    test = made_outcomes(200, seed=11)
    before = router.estimate(test.texts)
    few = made_outcomes(50, seed=10)
    router.add_model(newcomer, few.texts, few.quality[:, names.index(newcomer)].tolist())
    after = router.estimate(test.texts)
    assert after.models[-1] == newcomer
    np.testing.assert_allclose(after.quality[:, :-1], before.quality, atol=1e-9)
    chance = chance_of_success(test)[:, [names.index(m) for m in after.models]]
    routed, without = (
        chance[np.arange(200), e.quality.argmax(axis=1)].mean() for e in (after, before)
    )
    assert routed > without + 0.05
    router.remove_model(newcomer)
    np.testing.assert_allclose(router.estimate(test.texts).quality, before.quality, atol=1e-9)


def test_a_model_that_joined_is_there_after_loading(tmp_path: object) -> None:
    router = IRTRouter(n_abilities=2).fit(made_outcomes(60))
    few = made_outcomes(20, seed=1)
    router.add_model("new", few.texts, [1.0] * 20)
    loaded = wye.load(router.save(f"{tmp_path}/r"))
    one, other = router.estimate(few.texts), loaded.estimate(few.texts)
    assert other.models[-1] == "new"
    np.testing.assert_array_equal(one.quality, other.quality)
    np.testing.assert_array_equal(one.quality_std, other.quality_std)


@pytest.mark.parametrize("wrong", [{"n_abilities": 26}, {"warm_start": 2.0}, {"n_neighbours": 0}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("irt", **wrong).fit(made_outcomes(20))
