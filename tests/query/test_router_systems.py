"""What sets each router apart, on outcomes whose chances are known."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.query import AutoRouter, FactorisationRouter, KNNRouter, RouterError, get_router
from wye.query.knn import KNNEstimator
from wye.query.learning.inputs import Neighbours, QueryInputs
from wye.query.registry import BUILT_IN
from wye.testing import made_outcomes
from wye.testing.query_data import chance_of_success

# Learn with PyTorch, in fewer passes than by default.
TRAINED = {
    "graphrouter": {"steps": 30, "hidden": 16},
    "routellm-mf": {"epochs": 5},
    "routerdc": {"epochs": 10},
}
# Their methods read nothing of a text, so no text is routed otherwise than another.
CONTEXT_FREE = {"c2mab-v", "constant", "pickllm"}
# Reads which skills a text asks for; these questions ask for none, and it abstains.
BY_SKILL = {"instruction-adherence"}
LEARNED = [
    pytest.param(name, marks=pytest.mark.torch) if name in TRAINED else name
    for name in sorted(set(BUILT_IN) - CONTEXT_FREE - BY_SKILL)
]


@pytest.mark.parametrize("name", LEARNED)
def test_learned_routers_beat_the_best_single_model(name: str) -> None:
    train, test = made_outcomes(400, seed=1), made_outcomes(300, seed=2)
    chance = chance_of_success(test)
    routed = (
        get_router(name, **TRAINED.get(name, {}))
        .fit(train)
        .estimate(test.texts)
        .quality.argmax(axis=1)
    )
    quality = chance[np.arange(len(test)), routed].mean()
    assert quality > chance.mean(axis=0).max() + 0.15


@pytest.mark.parametrize("name", sorted(CONTEXT_FREE))
def test_routers_that_read_no_text_find_the_best_single_model(name: str) -> None:
    train, test = made_outcomes(400, seed=1), made_outcomes(50, seed=2)
    estimate = get_router(name).fit(train).estimate(test.texts)
    best = chance_of_success(train).mean(axis=0).argmax()
    assert (estimate.quality.argmax(axis=1) == best).all()
    error = estimate.quality[0] - train.quality.mean(axis=0)
    assert (np.abs(error) < 3 * estimate.quality_std[0]).all()


@pytest.mark.parametrize("name", LEARNED)
def test_uncertainty_covers_the_error_of_the_estimate(name: str) -> None:
    """The error of the estimated chance is of the size that `quality_std` says, not far from it."""
    train, test = made_outcomes(400, seed=3), made_outcomes(200, seed=4)
    estimate = get_router(name, **TRAINED.get(name, {})).fit(train).estimate(test.texts)
    error = estimate.quality - chance_of_success(test)
    ratio = np.sqrt((error**2).mean() / (estimate.quality_std**2).mean())
    assert 0.2 < ratio < 2.5


def test_uncertainty_falls_with_more_outcomes() -> None:
    texts = made_outcomes(100, seed=5).texts
    few, many = (
        KNNRouter().fit(made_outcomes(n, seed=6)).estimate(texts).quality_std.mean()
        for n in (60, 600)
    )
    assert many < few


def test_knn_equals_the_formula_by_loops() -> None:
    generator = np.random.default_rng(0)
    n, n_models, k = 12, 3, 4
    quality = generator.random((n, n_models))
    quality[generator.random(quality.shape) < 0.25] = np.nan
    quality[:, 0] = generator.random(n)
    index = np.stack([generator.permutation(n)[:k] for _ in range(5)])
    similarity = np.sort(generator.random((5, k)).astype(np.float32), axis=1)[:, ::-1]

    def inputs(found: Neighbours, reference: np.ndarray) -> QueryInputs:
        rows = len(reference)
        zeros = np.zeros((rows, 2), np.float32)
        return QueryInputs(("",) * rows, zeros, zeros, found, reference, n)

    nobody = Neighbours(np.zeros((n, 0), np.intp), np.zeros((n, 0), np.float32))
    estimator = KNNEstimator(k=k, shrinkage=2.0, sharpness=3.0)
    estimator.fit(inputs(nobody, np.arange(n)), quality)
    made, _ = estimator.predict(inputs(Neighbours(index, similarity), np.full(5, -1)))
    for q in range(5):
        for m in range(n_models):
            total, weight = 0.0, 2.0
            for neighbour, close in zip(index[q], similarity[q], strict=True):
                if np.isfinite(quality[neighbour, m]):
                    w = ((1 + close) / (1 + similarity[q, 0])) ** 3
                    total += w * (quality[neighbour, m] - estimator.means_[m])
                    weight += w
            assert made[q, m] == pytest.approx(estimator.means_[m] + total / weight, abs=1e-5)


def test_a_query_unlike_all_others_is_novel() -> None:
    data = made_outcomes(200)
    router = get_router("constant").fit(data)
    familiar = router.estimate(made_outcomes(100, seed=9).texts).novelty
    strange = router.estimate(["Сколько стоит хлеб в деревне?", "zzz qqq vvv"]).novelty
    assert 0.2 < familiar.mean() < 0.8
    assert strange.min() > 0.9


def test_auto_routes_as_constant_does_where_texts_tell_nothing() -> None:
    data = made_outcomes(400, seed=7)
    shuffled = data.outcomes.copy()
    generator = np.random.default_rng(0)
    # Each model keeps its outcomes, but which query they belong to is drawn at random.
    for model in data.model_names:
        rows = np.flatnonzero(shuffled["model"] == model)
        values = shuffled["quality"].to_numpy(copy=True)
        values[rows] = generator.permutation(values[rows])
        shuffled["quality"] = values
    noise = wye.RoutingData(data.queries, shuffled, data.models, "noise")
    best = int(noise.quality.mean(axis=0).argmax())
    routed = AutoRouter(members=("knn", "linear")).fit(noise).estimate(data.texts)
    assert (routed.quality.argmax(axis=1) == best).mean() > 0.9


def test_auto_weighs_its_members_and_keeps_only_useful_ones() -> None:
    router = AutoRouter(members=("knn", "linear")).fit(made_outcomes(300))
    assert set(router.weights_) == {"knn", "linear"}
    assert sum(contrast for _, contrast in router.weights_.values()) == pytest.approx(1, abs=0.35)
    with pytest.raises(RouterError, match=r"expected one or more of.*'knn'"):
        AutoRouter(members=("nearest",)).fit(made_outcomes(20))


def test_a_model_joins_from_forty_answers_without_retraining() -> None:
    data = made_outcomes(400, seed=8)
    names, newcomer = data.model_names, "coder"
    router = FactorisationRouter().fit(data.with_models([n for n in names if n != newcomer]))
    before = router.estimate(data.texts[:50])
    few = made_outcomes(40, seed=10)
    router.add_model(
        newcomer, few.texts, few.quality[:, names.index(newcomer)].tolist(), cost_usd=0.001
    )
    test = made_outcomes(200, seed=11)
    estimate = router.estimate(test.texts)
    chance = chance_of_success(test)[:, [names.index(m) for m in estimate.models]]
    assert estimate.models[-1] == newcomer
    np.testing.assert_allclose(estimate.cost[:, -1], 0.001)
    routed = chance[np.arange(200), estimate.quality.argmax(axis=1)].mean()
    without = chance[np.arange(200), estimate.quality[:, :-1].argmax(axis=1)].mean()
    assert routed > without + 0.05
    error = estimate.quality[:, -1] - chance[:, -1]
    assert (
        np.abs(error).mean()
        < np.abs(few.quality[:, names.index(newcomer)].mean() - chance[:, -1]).mean()
    )
    assert estimate.quality_std[:, -1].mean() > estimate.quality_std[:, 0].mean()
    router.remove_model(newcomer)
    np.testing.assert_allclose(router.estimate(data.texts[:50]).quality, before.quality, atol=1e-9)


def test_a_model_that_joined_is_there_after_loading(tmp_path: object) -> None:
    router = FactorisationRouter().fit(made_outcomes(100))
    few = made_outcomes(20, seed=1)
    router.add_model("new", few.texts, [1.0] * 20, price_in_per_mtok=1.0, price_out_per_mtok=1.0)
    loaded = wye.load(router.save(f"{tmp_path}/r"))
    one, other = router.estimate(few.texts), loaded.estimate(few.texts)
    assert other.models[-1] == "new"
    np.testing.assert_array_equal(one.quality, other.quality)
    assert np.isfinite(other.cost).all()


@pytest.mark.parametrize(
    ("name", "texts", "quality", "message"),
    [
        ("coder", ["x"], [1.0], "there already"),
        ("new", ["x", "y"], [1.0], "one figure a text"),
        ("new", [], [], "at least one"),
        ("new", ["x"], [float("nan")], "without NaN"),
    ],
)
def test_a_model_that_cannot_join_is_refused(
    name: str, texts: list[str], quality: list[float], message: str
) -> None:
    router = FactorisationRouter().fit(made_outcomes(30))
    with pytest.raises(RouterError, match=message):
        router.add_model(name, texts, quality)
