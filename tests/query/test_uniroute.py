"""UniRoute: membership times error rates, and a model that needs nothing but those."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.query import RouterError, UniRouteRouter, get_router
from wye.query.learning.clusters import memberships, worthwhile_count
from wye.query.uniroute import UniRouteEstimator
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs


def made(seed: int = 0, n: int = 80):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(seed)
    return made_inputs(generator.normal(size=(n, 4))), generator.random((n, 3))


def test_membership_is_a_softmax_of_squared_distances() -> None:
    inputs, quality = made()
    estimator = UniRouteEstimator(n_clusters=6, temperature=0.5).fit(inputs, quality)
    away = ((inputs.vectors[:, None, :] - estimator.centers_[None]) ** 2).sum(axis=2)
    weight = np.exp(-away / 0.5)
    wanted = weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(estimator.membership(inputs), wanted, rtol=1e-4)


def test_without_temperature_a_query_belongs_to_its_nearest_cluster_alone() -> None:
    inputs, quality = made()
    hard = UniRouteEstimator(n_clusters=6, temperature=0.0).fit(inputs, quality)
    soft = UniRouteEstimator(n_clusters=6, temperature=1e-3).fit(inputs, quality)
    assert (np.sort(hard.membership(inputs), axis=1)[:, -1] == 1.0).all()
    assert np.abs(hard.membership(inputs) - soft.membership(inputs)).mean() < 0.02


def test_the_predicted_error_is_membership_times_error_rates_by_loops() -> None:
    inputs, quality = made()
    estimator = UniRouteEstimator(n_clusters=5, shrinkage=0.0).fit(inputs, quality)
    owner = memberships(inputs.vectors, estimator.centers_, 1).argmax(axis=1)
    member = estimator.membership(inputs)
    predicted, _ = estimator.predict(inputs)
    for q in range(10):
        for m in range(3):
            error = sum(
                member[q, c] * (1.0 - quality[owner == c, m].mean())
                for c in range(5)
                if (owner == c).any()
            ) + sum(
                member[q, c] * (1.0 - quality[:, m].mean())
                for c in range(5)
                if not (owner == c).any()
            )
            assert 1.0 - predicted[q, m] == pytest.approx(error)


def test_with_one_cluster_every_query_gets_the_means_of_the_models() -> None:
    inputs, quality = made()
    predicted, _ = UniRouteEstimator(n_clusters=1).fit(inputs, quality).predict(inputs)
    np.testing.assert_allclose(predicted, np.broadcast_to(quality.mean(axis=0), predicted.shape))


def test_a_model_that_joins_with_all_its_answers_equals_one_that_was_trained() -> None:
    inputs, quality = made()
    trained = UniRouteEstimator(n_clusters=6).fit(inputs, quality)
    joined = UniRouteEstimator(n_clusters=6).fit(inputs, quality[:, :2])
    joined.join(inputs, quality[:, 2])
    for one, other in zip(trained.predict(inputs), joined.predict(inputs), strict=True):
        np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(trained.levels, joined.levels)


def test_models_join_and_leave_and_survive_storage(tmp_path: object) -> None:
    data = made_outcomes(150)
    names = data.model_names
    router = UniRouteRouter().fit(data.with_models(names[:-1]))
    before = router.estimate(data.texts[:20])
    router.add_model(names[-1], data.texts[:60], data.quality[:60, -1].tolist(), cost_usd=0.01)
    loaded = wye.load(router.save(f"{tmp_path}/r"))
    estimate = loaded.estimate(data.texts[:20])
    assert estimate.models == names
    np.testing.assert_allclose(estimate.cost[:, -1], 0.01)
    np.testing.assert_allclose(estimate.quality[:, :-1], before.quality, atol=1e-12)
    router.remove_model(names[-1])
    np.testing.assert_allclose(router.estimate(data.texts[:20]).quality, before.quality)


def test_clusters_are_fewer_where_queries_are_few() -> None:
    assert [worthwhile_count(32, n) for n in (1, 9, 50, 1000)] == [1, 1, 5, 32]


@pytest.mark.parametrize("wrong", [{"n_clusters": 0}, {"temperature": -1.0}, {"shrinkage": -1.0}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("uniroute", **wrong).fit(made_outcomes(20))
