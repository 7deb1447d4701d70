"""Avengers and Avengers-Pro: rankings in clusters, their limits, votes, and costs in the score."""

from __future__ import annotations

import numpy as np
import pytest

from wye.data import RoutingData
from wye.query import AvengersProRouter, AvengersRouter, RouterError, get_router
from wye.query.avengers import AvengersEstimator, majority
from wye.query.avengers_pro import (
    AvengersProEstimator,
    normalised_cost,
    normalised_performance,
)
from wye.query.learning.clusters import memberships
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs

DATA = made_outcomes(150)
TEXTS = made_outcomes(40, seed=1).texts


@pytest.mark.parametrize("router", [AvengersRouter, AvengersProRouter])
def test_one_cluster_is_the_best_single_model(
    router: type[AvengersRouter] | type[AvengersProRouter],
) -> None:
    best = DATA.model_names[int(DATA.quality.mean(axis=0).argmax())]
    assert router(n_clusters=1).fit(DATA).route(TEXTS).targets == [best] * len(TEXTS)


def test_performance_alone_in_one_cluster_a_query_routes_as_avengers() -> None:
    plain = AvengersRouter(n_clusters=8).fit(DATA).route(TEXTS).targets
    assert AvengersProRouter(n_clusters=8).fit(DATA).route(TEXTS).targets == plain


def test_efficiency_alone_is_the_cheapest_model() -> None:
    router = AvengersProRouter(performance_weight=0.0, n_clusters=8).fit(DATA)
    assert router.route(TEXTS).targets == ["weak"] * len(TEXTS)


def test_accuracies_are_plain_means_in_each_cluster() -> None:
    generator = np.random.default_rng(0)
    inputs, quality = made_inputs(generator.normal(size=(80, 4))), generator.random((80, 3))
    quality[generator.random(quality.shape) < 0.2] = np.nan
    quality[:, 0] = 0.5
    estimator = AvengersEstimator(n_clusters=6).fit(inputs, quality)
    owner = memberships(inputs.vectors, estimator.centers_, 1).argmax(axis=1)
    for c in set(owner.tolist()):
        np.testing.assert_allclose(estimator.accuracy_[c], np.nanmean(quality[owner == c], axis=0))


def test_the_score_of_avengers_pro_equals_the_formula_by_loops() -> None:
    generator = np.random.default_rng(1)
    inputs, quality = made_inputs(generator.normal(size=(90, 4))), generator.random((90, 3))
    cost = generator.random((90, 3))
    assert inputs.logged is not None
    inputs.logged.cost[:] = cost
    estimator = AvengersProEstimator(performance_weight=0.6, n_clusters=6, nearest=2)
    made = estimator.fit(inputs, quality).scores(inputs)
    close = inputs.vectors @ estimator.centers_.T
    owner = close.argmax(axis=1)
    for q in range(10):
        near = np.argsort(-close[q])[:2]
        weight = np.exp(10.0 * close[q, near])
        weight /= weight.sum()
        wanted = np.zeros(3)
        for w, c in zip(weight, near, strict=True):
            p, spent = quality[owner == c].mean(axis=0), cost[owner == c].mean(axis=0)
            p = (p - p.min()) / (p.max() - p.min())
            wanted += w * (0.6 * p + 0.4 * (1.0 - spent / spent.max()))
        np.testing.assert_allclose(made[q], wanted, rtol=1e-5)


def test_normalised_figures_lie_between_zero_and_one_and_reach_both_or_one() -> None:
    figures = np.random.default_rng(2).random((7, 4))
    p, q = normalised_performance(figures), normalised_cost(figures)
    np.testing.assert_allclose([p.min(axis=1), p.max(axis=1)], [np.zeros(7), np.ones(7)])
    np.testing.assert_allclose(q.max(axis=1), 1.0)
    assert (q >= 0).all()
    np.testing.assert_allclose(normalised_cost(np.zeros((1, 3))), 0.0)


def test_an_ensemble_is_the_best_few_models_the_best_first() -> None:
    router = AvengersRouter(n_models=3, n_clusters=8).fit(DATA)
    plan = router.ensemble(TEXTS)
    quality = router.estimate(TEXTS).quality
    target, weight = plan.target.reshape(-1, 3), plan.weight.reshape(-1, 3)
    np.testing.assert_array_equal(plan.source.reshape(-1, 3)[:, 0], np.arange(len(TEXTS)))
    chosen = np.take_along_axis(quality, target, axis=1)
    assert (np.diff(chosen, axis=1) <= 0).all()
    assert (chosen.min(axis=1) >= np.sort(quality, axis=1)[:, -3]).all()
    np.testing.assert_allclose(weight.sum(axis=1), 1.0)


def test_an_ensemble_of_one_is_a_route_and_of_too_many_is_everybody() -> None:
    router = AvengersRouter(n_models=1, n_clusters=8).fit(DATA)
    names = [router.models_[t] for t in router.ensemble(TEXTS).target.tolist()]
    assert names == router.route(TEXTS).targets
    router.n_models = 9
    assert len(router.ensemble(TEXTS).target) == 4 * len(TEXTS)


def test_the_majority_answers_and_the_best_model_breaks_ties() -> None:
    assert majority([["b", "a", "a"], ["x", "y", "z"], ["", "q", "r"]]) == ["a", "x", "q"]


def without_costs() -> RoutingData:
    outcomes = DATA.outcomes.copy()
    outcomes["cost_usd"] = np.nan
    return RoutingData(DATA.queries, outcomes, DATA.models, DATA.name)


def test_costs_are_needed_only_where_they_count() -> None:
    AvengersProRouter(n_clusters=4).fit(without_costs())
    with pytest.raises(RouterError, match="costs count"):
        AvengersProRouter(performance_weight=0.5, n_clusters=4).fit(without_costs())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("avengers", {"n_clusters": 0}),
        ("avengers", {"n_models": 0}),
        ("avengers-pro", {"nearest": 5}),
        ("avengers-pro", {"performance_weight": 1.1}),
    ],
)
def test_wrong_parameters_are_refused(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router(name, **wrong).fit(DATA)
