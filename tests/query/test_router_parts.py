"""The parts that routers share, each against a naive oracle or an exact property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.query import get_router
from wye.query.base import RouterError
from wye.query.learning.calibration import Reliability, fit_calibrator, fit_combination
from wye.query.learning.cost_model import fit_amounts
from wye.query.learning.embedded import NOVELTY_REFERENCES
from wye.query.learning.estimator import common_part, folds, mean_std, model_means
from wye.query.learning.features import FEATURES, describe_text, text_features
from wye.query.learning.inputs import nearest
from wye.query.learning.ridge import Design, fit_ridge
from wye.testing import made_outcomes


def _with_holes(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    quality = generator.random(shape)
    quality[generator.random(shape) < 0.3] = np.nan
    quality[:, 0] = generator.random(shape[0])
    return quality


def test_ridge_equals_the_normal_equations_output_by_output() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 6)), _with_holes(generator, (40, 4))
    fitted = fit_ridge(Design(x), y, (2.5,))
    for m in range(4):
        rows = np.isfinite(y[:, m])
        centred = x[rows] - x[rows].mean(axis=0)
        target = y[rows, m] - y[rows, m].mean()
        coef = np.linalg.solve(centred.T @ centred + 2.5 * np.eye(6), centred.T @ target)
        np.testing.assert_allclose(fitted.coef[:, m], coef, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(
            fitted.intercept[m], y[rows, m].mean() - x[rows].mean(axis=0) @ coef
        )


def test_ridge_leaves_one_out_as_fitting_without_the_row_does() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(25, 3)), _with_holes(generator, (25, 3))
    held_out = fit_ridge(Design(x), y, (0.7,)).held_out
    for m in range(3):
        for q in np.flatnonzero(np.isfinite(y[:, m])):
            hidden = y[:, [m]].copy()
            hidden[q] = np.nan
            without = fit_ridge(Design(x), hidden, (0.7,))
            expected = x[q] @ without.coef[:, 0] + without.intercept[0]
            assert held_out[q, m] == pytest.approx(expected, abs=1e-8)


def test_ridge_penalises_noise_more_than_signal() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(200, 20))
    signal = (x @ generator.normal(size=20))[:, None]
    noise = generator.normal(size=(200, 1))
    assert fit_ridge(Design(x), noise).penalty > 100 * fit_ridge(Design(x), signal).penalty


@given(seed=st.integers(0, 1000), k=st.integers(1, 30), exclude=st.booleans())
@settings(max_examples=30, deadline=None)
def test_nearest_equals_sorting_all_similarities(seed: int, k: int, exclude: bool) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(20, 4)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    own = np.arange(20)
    found = nearest(points, points, k, own if exclude else None)
    similarity = points @ points.T
    if exclude:
        np.fill_diagonal(similarity, -np.inf)
    expected = np.sort(similarity, axis=1)[:, ::-1][:, : found.index.shape[1]]
    assert found.index.shape[1] == min(k, 19 if exclude else 20)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(similarity, found.index, axis=1), expected, atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 7, 32, 100, 500])
@pytest.mark.parametrize("k", [1, 2, 8, 64])
def test_the_nearest_of_one_query_are_those_of_the_same_query_among_others(n: int, k: int) -> None:
    generator = np.random.default_rng(n)
    points = generator.normal(size=(n, 4)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    # Every other reference occurs twice, so that there are ties, the earlier one first.
    points[1::2] = points[: n - 1 : 2]
    queries = generator.normal(size=(3, 4)).astype(np.float32)
    alone, among = nearest(queries[:1], points, k), nearest(queries, points, k)
    assert alone.index.shape == (1, min(n, k))
    np.testing.assert_allclose(alone.similarity[0], among.similarity[0], atol=1e-6)
    similarity = points @ queries[0]
    np.testing.assert_allclose(similarity[alone.index[0]], alone.similarity[0], atol=1e-6)
    assert len(set(alone.index[0].tolist())) == min(n, k)


def test_fewer_references_tell_novelty_where_nobody_reads_neighbours() -> None:
    data = made_outcomes(NOVELTY_REFERENCES + 200, seed=1)
    router, reads = get_router("linear").fit(data), get_router("knn").fit(data)
    assert len(router.references_) == NOVELTY_REFERENCES
    assert len(reads.references_) == len(data)
    assert router.familiarity_.shape == (len(data),)
    # Novelty is a share of training queries: fresh ones of the same kind spread evenly.
    fresh = router.estimate(made_outcomes(400, seed=2).texts).novelty
    assert 0.4 < fresh.mean() < 0.6
    assert router.estimate(["zzz qqq vvv"]).novelty[0] > 0.9


def test_means_without_holes_are_plain_means() -> None:
    quality = np.random.default_rng(3).random((30, 4))
    np.testing.assert_allclose(model_means(quality), quality.mean(axis=0))


def test_means_compare_models_on_the_same_queries() -> None:
    """The better model ran only the hard half: its plain mean is lower, its adjusted one higher."""
    easy, hard = np.full(50, 0.9), np.full(50, 0.3)
    base = np.concatenate([easy, hard])
    better = base + 0.1
    better[:50] = np.nan
    quality = np.stack([base, base - 0.05, better], axis=1)
    assert np.nanmean(quality[:, 2]) < np.nanmean(quality[:, 0])
    means = model_means(quality)
    assert means[2] - means[0] == pytest.approx(0.1, abs=1e-3)
    assert means[0] - means[1] == pytest.approx(0.05, abs=1e-3)


def test_a_single_outcome_counts_half_as_difficulty() -> None:
    quality = np.array([[1.0, np.nan], [1.0, 1.0]])
    np.testing.assert_allclose(common_part(quality, np.array([0.5, 0.5])), [0.25, 0.5])


def test_uncertainty_of_a_mean_falls_with_the_square_root_of_its_outcomes() -> None:
    generator = np.random.default_rng(4)
    quality = (generator.random((4000, 2)) < 0.5).astype(float)
    quality[1000:, 1] = np.nan
    wide, narrow = mean_std(quality, model_means(quality))[::-1]
    assert wide / narrow == pytest.approx(2.0, rel=0.05)
    assert narrow == pytest.approx(0.5 / np.sqrt(4000), rel=0.05)


@given(n=st.integers(1, 50), count=st.integers(1, 8), seed=st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_folds_part_all_rows(n: int, count: int, seed: int) -> None:
    parts = folds(n, count, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_noise_gets_no_weight_on_differences() -> None:
    """Knowing when not to route: predictions that are noise leave each model at its mean."""
    generator = np.random.default_rng(5)
    quality = (generator.random((3000, 5)) < [0.8, 0.7, 0.6, 0.5, 0.4]).astype(float)
    means = quality.mean(axis=0)
    prediction = means + generator.normal(0, 0.3, quality.shape)
    combination = fit_combination([prediction], quality, means)
    assert combination.contrast[0] < 0.05
    assert (combination.combine([prediction]).argmax(axis=1) == 0).mean() > 0.99


def test_an_overconfident_prediction_is_shrunk_to_what_it_is_worth() -> None:
    generator = np.random.default_rng(6)
    truth = np.clip(0.5 + generator.normal(0, 0.15, (5000, 3)), 0.02, 0.98)
    quality = (generator.random(truth.shape) < truth).astype(float)
    means = quality.mean(axis=0)
    loud = means + 3.0 * (truth - means)
    combination = fit_combination([loud], quality, means)
    np.testing.assert_allclose(combination.contrast, 1 / 3, atol=0.03)
    np.testing.assert_allclose(combination.common, 1 / 3, atol=0.05)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_mends_distorted_probabilities(method: str) -> None:
    generator = np.random.default_rng(7)
    truth = generator.uniform(0.05, 0.95, (20_000, 1))
    quality = (generator.random(truth.shape) < truth).astype(float)
    logit = np.log(truth / (1 - truth))
    distorted = 1 / (1 + np.exp(-(2.5 * logit + 0.8)))
    calibrator = fit_calibrator(method, distorted, quality, seed=0)
    before = Reliability.of(distorted, quality)
    after = Reliability.of(calibrator.apply(distorted), quality)
    assert before.ece > 0.1
    assert after.ece < 0.02
    assert after.brier < before.brier


def test_calibration_keeps_the_order_of_models() -> None:
    generator = np.random.default_rng(8)
    raw = generator.uniform(0.05, 0.95, (500, 4))
    quality = (generator.random(raw.shape) < raw).astype(float)
    mapped = fit_calibrator("platt", raw, quality, seed=0).apply(raw)
    np.testing.assert_array_equal(mapped.argsort(axis=1), raw.argsort(axis=1))


def test_an_unknown_calibration_is_refused() -> None:
    with pytest.raises(RouterError, match=r"'plat'.*'platt'"):
        fit_calibrator("plat", np.zeros((2, 2)), np.zeros((2, 2)), seed=0)


def test_reliability_equals_binning_by_hand() -> None:
    predicted = np.array([[0.1], [0.1], [0.9], [0.9]])
    quality = np.array([[0.0], [1.0], [1.0], [1.0]])
    curve = Reliability.of(predicted, quality, bins=2)
    assert curve.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert curve.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)


def test_expected_cost_keeps_the_mean_in_dollars() -> None:
    generator = np.random.default_rng(9)
    design = generator.normal(size=(2000, 3)).astype(np.float32)
    logs = -7 + design @ np.array([[0.5], [0.2], [0.0]]) + generator.normal(0, 0.7, (2000, 1))
    cost = np.exp(logs)
    predicted = fit_amounts(design, cost).predict(design)
    assert predicted.mean() == pytest.approx(cost.mean(), rel=0.01)
    assert np.corrcoef(np.log(predicted[:, 0]), logs[:, 0])[0, 1] > 0.5


def test_a_model_never_measured_has_no_cost() -> None:
    design = np.zeros((3, 2), np.float32)
    predicted = fit_amounts(design, np.array([[1.0, np.nan]] * 3)).predict(design)
    assert predicted[:, 0] == pytest.approx([1.0, 1.0, 1.0])
    assert np.isnan(predicted[:, 1]).all()


def test_features_count_what_they_say() -> None:
    row = dict(zip(FEATURES, text_features(["Какая столица? 12"])[0], strict=True))
    assert row["share_cyrillic"] == pytest.approx(12 / 17)
    assert row["share_digit"] == pytest.approx(2 / 17)
    assert row["log_chars"] == pytest.approx(np.log1p(17))
    assert row["ends_question"] == 0


@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_features_of_a_text_do_not_depend_on_its_batch(texts: list[str]) -> None:
    together = text_features(texts)
    apart = np.concatenate([text_features([t]) for t in texts])
    np.testing.assert_array_equal(together, apart)
    assert np.isfinite(together).all()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("How many legs?", "opening", "asks_how_many"),
        ("def f(x):\n    return x", "code", 1.0),
        ("Solve $x^2 = 4$", "mathematics", 1.0),
        ("これはひらがなです", "script", "kana"),
        ("Pick one\nA. x\nB. y\nC. z", "options", 3.0),
    ],
)
def test_a_text_is_described_in_plain_words(text: str, key: str, value: object) -> None:
    assert describe_text(text)[key] == value
