"""What an estimate computes in few array calls equals the formulas, written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.embed.static import StaticEmbedder
from wye.query import get_router
from wye.query.auto import AutoRouter
from wye.query.cluster import ClusterRouter
from wye.query.factorisation import FactorisationRouter
from wye.query.knn import KNNRouter
from wye.query.learning.calibration import Calibrator, Combination
from wye.query.learning.categories import CategoryEstimator
from wye.query.learning.features import READ_CHARS, describe_text, describe_texts, text_features
from wye.query.learning.group_table import GroupJudgement
from wye.query.linear import LinearEstimator
from wye.query.mlp import MLPRouter
from wye.testing import made_outcomes

TEXTS = made_outcomes(7, seed=9).texts


@given(
    seed=st.integers(0, 1000),
    n_estimators=st.integers(1, 4),
    n_queries=st.integers(0, 4),
    n_models=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_stack_weighs_common_parts_and_contrasts(
    seed: int, n_estimators: int, n_queries: int, n_models: int
) -> None:
    generator = np.random.default_rng(seed)
    means = generator.random(n_models)
    common, contrast = generator.random((2, n_estimators))
    contrast[0] = 0.0
    stack = Combination(means, common, contrast)
    predictions = generator.random((n_estimators, n_queries, n_models))
    stds = generator.random(predictions.shape)
    share = (common + contrast) / (common + contrast).sum()
    combined, doubt = stack.combine(predictions), stack.uncertainty(predictions, stds)
    assert combined.shape == doubt.shape == (n_queries, n_models)
    for q in range(n_queries):
        expected = means.copy()
        for h in range(n_estimators):
            excess = predictions[h, q] - means
            expected += common[h] * excess.mean() + contrast[h] * (excess - excess.mean())
        np.testing.assert_allclose(combined[q], expected, rtol=1e-12, atol=1e-14)
        for m in range(n_models):
            own = predictions[:, q, m]
            spread = (share * (stds[:, q, m] ** 2 + (own - share @ own) ** 2)).sum()
            np.testing.assert_allclose(doubt[q, m], np.sqrt(spread), rtol=1e-7)


def test_a_stack_of_no_weight_speaks_by_its_first_estimator() -> None:
    means = np.array([0.3, 0.6])
    stack = Combination(means, np.zeros(2), np.zeros(2))
    predictions, stds = np.full((2, 1, 2), 0.9), np.array([[[0.1, 0.2]], [[0.5, 0.5]]])
    np.testing.assert_allclose(stack.combine(predictions), means[None])
    np.testing.assert_allclose(stack.uncertainty(predictions, stds), stds[0])


@given(
    raw=st.lists(st.floats(-1.0, 2.0), min_size=1, max_size=9),
    slope=st.floats(0.001, 20.0),
    intercept=st.floats(-5.0, 5.0),
)
def test_platts_map_is_the_logistic_function_of_the_logit(
    raw: list[float], slope: float, intercept: float
) -> None:
    calibrator = Calibrator("platt", np.array([slope, intercept]))
    p = np.clip(np.array(raw), 0.002, 0.998)
    plain = 1 / (1 + np.exp(-(slope * np.log(p / (1 - p)) + intercept)))
    mapped = calibrator.apply(np.array(raw))
    np.testing.assert_allclose(mapped, np.clip(plain, 0.002, 0.998), rtol=1e-9)
    steep = slope * mapped * (1 - mapped) / (p * (1 - p))
    np.testing.assert_allclose(calibrator.slope(np.array(raw), mapped), steep, rtol=1e-9)


def test_neighbours_pull_a_model_from_its_mean() -> None:
    router = KNNRouter().fit(made_outcomes(300, seed=2, density=0.6))
    knn, inputs = router.estimators_["knn"], router._inputs(TEXTS)
    quality, std = knn.predict(inputs)
    for q in range(len(TEXTS)):
        near = inputs.neighbours.index[q, : knn.k_]
        nearness = 1.0 + inputs.neighbours.similarity[q, : knn.k_].astype(np.float64)
        weight = (nearness / nearness[0]) ** knn.sharpness_
        trust = weight @ knn.known_[near] + knn.shrinkage_
        expected = knn.means_ + weight @ knn.excess_[near] / trust
        np.testing.assert_allclose(quality[q], expected, rtol=1e-5)
        p = np.clip(expected, 0.01, 0.99)
        variance = p * (1 - p) / (1 + trust) + knn.mean_std_**2
        np.testing.assert_allclose(std[q], np.sqrt(variance), rtol=1e-5)


def test_a_linear_estimate_is_as_doubtful_as_its_two_leverages() -> None:
    router = get_router("linear").fit(made_outcomes(300, seed=3, density=0.6))
    inputs = router._inputs(TEXTS)
    _linear_as_written(router.estimators_["linear"], inputs.columns)


def _linear_as_written(
    linear: LinearEstimator, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    quality, std = linear.predict_columns(columns)
    x = columns.astype(np.float64)
    along = (x - linear.center_) @ linear.axes_.astype(np.float64)
    difficulty, contrast = (along**2 @ linear.reach_).T
    variance = (
        np.outer(difficulty, linear.noise_[0] ** 2)
        + np.outer(contrast, linear.noise_[1] ** 2)
        + linear.mean_std_**2
    )
    expected = x @ linear.coef_ + linear.intercept_
    np.testing.assert_allclose(quality, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-4)
    return quality, std


def test_two_networks_speak_by_their_mean_and_doubt_by_their_difference() -> None:
    router = MLPRouter(epochs=3).fit(made_outcomes(300, seed=4, density=0.6))
    inputs, network = router._inputs(TEXTS), router.estimators_["mlp"]
    parts = [
        _linear_as_written(last, np.maximum(inputs.columns @ weight + bias, 0.0))
        for weight, bias, last in network.networks_
    ]
    means = np.array([mean for mean, _ in parts])
    variance = np.array([std**2 for _, std in parts]).mean(axis=0) + means.var(axis=0)
    quality, std = network.predict(inputs)
    np.testing.assert_allclose(quality, means.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-5)


def test_factors_speak_by_code_and_vector_whoever_joins_or_leaves() -> None:
    data = made_outcomes(300, seed=5, density=0.6)
    router = FactorisationRouter().fit(data)
    _factors_as_written(router)
    router.add_model("newcomer", data.texts[:20], np.linspace(0, 1, 20).tolist())
    _factors_as_written(router)
    router.remove_model("newcomer")
    _factors_as_written(router)


def _factors_as_written(router: FactorisationRouter) -> None:
    factors, inputs = router.estimators_["factorisation"], router._inputs(TEXTS)
    quality, std = factors.predict(inputs)
    assert quality.shape == (len(TEXTS), len(router.models_))
    for q, row in enumerate(inputs.columns):
        code = ((row - factors.center_) @ factors.encoder_).astype(np.float64)
        expected = [b + code @ v for b, v in zip(factors.bias_, factors.vectors_, strict=True)]
        np.testing.assert_allclose(quality[q], expected, rtol=1e-5, atol=1e-6)
        rare = factors.n_queries_[0] / np.maximum(factors.counts_, 1)
        leverage = code @ factors.reach_ @ code
        variance = leverage * rare * factors.noise_**2 + factors.mean_std_**2
        np.testing.assert_allclose(std[q], np.sqrt(variance), rtol=1e-5)


def test_clusters_judge_by_the_nearest_alone() -> None:
    router = ClusterRouter(n_clusters=6, nearest=2).fit(made_outcomes(300, seed=6))
    cluster, inputs = router.estimators_["cluster"], router._inputs(TEXTS)
    quality, std = cluster.predict(inputs)
    for q, vector in enumerate(inputs.vectors):
        close = cluster.centers_ @ vector.astype(np.float64)
        judges = np.argsort(-close)[:2]
        share = np.exp(10.0 * close[judges])
        share /= share.sum()
        np.testing.assert_allclose(quality[q], share @ cluster.table_[judges], rtol=1e-6)
        variance = share @ cluster.table_std_[judges] ** 2 + cluster.mean_std_**2
        np.testing.assert_allclose(std[q], np.sqrt(variance), rtol=1e-6)


def test_a_category_judges_by_its_share() -> None:
    router = AutoRouter(members=("category",)).fit(made_outcomes(300, seed=7))
    category, inputs = router.estimators_["category"], router._inputs(TEXTS)
    assert isinstance(category, CategoryEstimator)
    share, (quality, std) = category.posterior(inputs), category.predict(inputs)
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    np.testing.assert_allclose(quality, share @ category.table_)
    variance = share @ category.table_std_**2 + category.mean_std_**2
    np.testing.assert_allclose(std, np.sqrt(variance))


def test_a_judgement_by_groups_adds_what_every_query_leaves_open() -> None:
    table, table_std = np.array([[0.2, 0.4], [0.6, 0.8]]), np.array([[0.1, 0.2], [0.3, 0.4]])
    judge = GroupJudgement.of(table, table_std, np.array([0.05, 0.06]))
    quality, std = judge(np.array([[1.0, 0.0], [0.25, 0.75]]))
    np.testing.assert_allclose(quality, [[0.2, 0.4], [0.5, 0.7]])
    np.testing.assert_allclose(std[0], [np.hypot(0.1, 0.05), np.hypot(0.2, 0.06)])


@pytest.mark.parametrize("system", ["auto", "knn", "linear", "mlp", "cluster", "factorisation"])
def test_a_text_is_estimated_alone_as_it_is_among_others(system: str) -> None:
    router = get_router(system).fit(made_outcomes(200, seed=8))
    together = router.estimate(TEXTS)
    for q, text in enumerate(TEXTS):
        alone = router.estimate([text])
        for figure in ("quality", "quality_std", "cost", "latency"):
            np.testing.assert_allclose(
                getattr(alone, figure)[0], getattr(together, figure)[q], rtol=1e-4, atol=1e-6
            )


@given(texts=st.lists(st.text(max_size=40), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_the_vector_of_a_text_is_the_same_alone_and_among_others(texts: list[str]) -> None:
    embedder = StaticEmbedder()
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(embedder.embed(texts), alone, atol=1e-6)


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_texts_are_described_the_same_before_and_after_their_features_are_read(
    texts: list[str],
) -> None:
    text_features(["another text"])
    before = describe_texts(texts)
    text_features(texts)
    assert describe_texts(texts) == before == [describe_text(text) for text in texts]
    assert [row["words"] for row in before] == [len(text.split()) for text in texts]


def test_features_that_were_changed_are_read_afresh() -> None:
    text_features(["one text"])[:] = 7.0
    assert text_features(["one text"])[0, 0] == np.float32(np.log1p(8))


def test_all_words_of_a_long_text_are_told() -> None:
    assert describe_text("a word " * READ_CHARS)["words"] == 2 * READ_CHARS
