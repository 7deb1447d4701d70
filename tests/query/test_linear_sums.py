"""Regression from sums: what is learned in blocks, in any order, is what is learned from all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from wye.data import load_embedded
from wye.query.base import RouterError
from wye.query.learning.ridge import PENALTIES
from wye.query.learning.seen import question_hashes
from wye.query.learning.sums import FOLDS, FeatureSums, Rows, RowSums, Sketch, solve
from wye.query.linear_sums import LinearSumsRouter

WORDS = ["sum", "of", "the", "primes", "2 + 2", "Why?", "write", "code", "```x```", "à la carte"]


def some_rows(seed: int, n: int = 240, n_models: int = 3) -> tuple[Rows, np.ndarray]:
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(WORDS, 6)) + f" {i}" for i in range(n)]
    columns = generator.normal(size=(n, 7))
    quality = np.clip(0.5 + 0.2 * columns[:, 0] + 0.1 * generator.normal(size=n), 0, 1)
    quality[generator.random(n) < 0.1] = np.nan
    model = generator.integers(0, n_models, n)
    cost = np.where(generator.random(n) < 0.2, np.nan, 1e-6 * np.array([len(t) for t in texts]))
    return Rows(texts, model, quality, cost, generator.random(n)), columns


def part(rows: Rows, chosen: np.ndarray) -> Rows:
    return Rows(
        [rows.texts[i] for i in chosen],
        rows.model[chosen],
        rows.quality[chosen],
        rows.cost[chosen],
        rows.latency[chosen],
    )


def test_the_solution_and_the_error_of_each_penalty_are_those_of_explicit_regressions():
    rows, columns = some_rows(1)
    known = np.isfinite(rows.quality)
    fold = (question_hashes(rows.texts) % np.uint64(FOLDS)).astype(int)
    solved = solve(RowSums.of(rows, columns, 3), PENALTIES)
    errors = np.zeros((len(PENALTIES), 3))
    for p, penalty in enumerate(PENALTIES):
        for k in range(FOLDS):
            for m in range(3):
                seen = known & (rows.model == m) & (fold != k)
                unseen = known & (rows.model == m) & (fold == k)
                if unseen.any():
                    fitted = Ridge(alpha=penalty).fit(columns[seen], rows.quality[seen])
                    residual = rows.quality[unseen] - fitted.predict(columns[unseen])
                    errors[p, m] += (residual**2).sum()
    best = int(np.argmin(errors.sum(axis=1)))
    assert solved.penalty == PENALTIES[best]
    np.testing.assert_allclose(solved.noise, np.sqrt(errors[best] / solved.counts), rtol=1e-6)
    for m in range(3):
        mine = known & (rows.model == m)
        assert solved.counts[m] == mine.sum()
        fitted = Ridge(alpha=solved.penalty).fit(columns[mine], rows.quality[mine])
        np.testing.assert_allclose(solved.coef[:, m], fitted.coef_, atol=1e-9)
        np.testing.assert_allclose(solved.intercept[m], fitted.intercept_, atol=1e-9)


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 239), max_size=6, unique=True))
@settings(max_examples=25)
def test_blocks_in_any_order_add_up_to_the_whole(seed, cuts):
    rows, columns = some_rows(seed)
    order = np.random.default_rng(seed).permutation(240)
    blocks = np.split(order, sorted(cuts))
    vectors = columns.astype(np.float32)
    whole, *rest = [RowSums.of(part(rows, b), columns[b], 3) for b in blocks]
    sketch, *sketches = [Sketch.of(part(rows, b).texts, vectors[b], 50) for b in blocks]
    features, *others = [FeatureSums.of(part(rows, b).texts) for b in blocks]
    for other in rest:
        whole = whole + other
    for other in sketches:
        sketch = sketch + other
    for other in others:
        features = features + other
    expected = RowSums.of(rows, columns, 3)
    for name in ("gram", "moment", "power", "lines"):
        np.testing.assert_allclose(getattr(whole, name), getattr(expected, name), atol=1e-9)
    all_at_once = Sketch.of(rows.texts, vectors, 50)
    assert (sketch.hashes == all_at_once.hashes).all()
    assert (sketch.vectors == all_at_once.vectors).all()
    scale, wanted = features.scale(), FeatureSums.of(rows.texts).scale()
    np.testing.assert_allclose(scale.mean, wanted.mean, atol=1e-9)
    np.testing.assert_allclose(scale.spread, wanted.spread, atol=1e-6)


def test_a_question_that_comes_twice_is_in_the_sketch_once():
    sketch = Sketch.of(["a", "b", "a"], np.eye(3, dtype=np.float32), 10)
    assert len(sketch.hashes) == 2
    assert len((sketch + sketch).hashes) == 2


def test_it_tells_easy_queries_from_hard_ones_it_has_not_seen():
    data = load_embedded()
    router = LinearSumsRouter().fit(data.part("train"))
    test = data.part("test")
    estimate = router.estimate(test.texts).restrict(test.model_names)
    known = np.isfinite(test.quality)
    error = (estimate.quality - test.quality)[known]
    mean = np.nanmean(data.part("train").quality, axis=0)
    baseline = (mean - test.quality)[known]
    assert (error**2).mean() < 0.95 * (baseline**2).mean()
    costs = np.isfinite(test.cost)
    far = np.abs(estimate.cost - test.cost)[costs].mean()
    assert far < np.abs(np.nanmean(test.cost) - test.cost)[costs].mean()


def test_a_model_that_never_answered_may_be_anything():
    rows, columns = some_rows(2)
    router = LinearSumsRouter()
    scale = FeatureSums.of(rows.texts).scale()
    router.learn(router.sums_of(rows, scale, 4), scale, ["a", "b", "c", "silent"])
    estimate = router.estimate(["What is 2 + 2?"])
    assert estimate.quality_std[0, 3] == 0.5
    assert np.isnan(estimate.cost[0, 3])
    assert (estimate.quality_std[0, :3] < 0.5).all()
    assert columns.shape == (240, 7)


def test_rows_without_any_quality_teach_nothing():
    rows, _ = some_rows(3)
    blind = Rows(rows.texts, rows.model, np.full(240, np.nan), rows.cost, rows.latency)
    router = LinearSumsRouter()
    scale = FeatureSums.of(rows.texts).scale()
    with pytest.raises(RouterError, match="known quality"):
        router.learn(router.sums_of(blind, scale, 3), scale, ["a", "b", "c"])
