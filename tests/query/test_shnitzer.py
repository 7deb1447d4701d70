"""Shnitzer's scores: what they say of a task, and of a single query."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import NotFittedError, RouterError, ShnitzerRouter, get_router
from wye.query.shnitzer import TIE_BREAK, ShnitzerEstimator
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs


def fitted(score: str, seed: int = 0) -> tuple[ShnitzerEstimator, np.ndarray, np.ndarray]:
    """An estimator on 60 queries, its g by loops, and the quality it learned."""
    generator = np.random.default_rng(seed)
    inputs, quality = made_inputs(generator.normal(size=(60, 3)), k=20), generator.random((60, 3))
    quality[generator.random(quality.shape) < 0.3] = np.nan
    quality[:, 0] = generator.random(60)
    estimator = ShnitzerEstimator(score=score, k=5).fit(inputs, quality)
    g = np.empty((60, 3))
    for q in range(60):
        near = quality[inputs.neighbours.index[q, :5]]
        for m in range(3):
            known = near[np.isfinite(near[:, m]), m]
            g[q, m] = known.mean() if known.size else estimator.means_[m]
    return estimator, g, quality


def inputs_of(seed: int = 0):  # type: ignore[no-untyped-def]
    return made_inputs(np.random.default_rng(seed).normal(size=(60, 3)), k=20)


def test_s1_of_a_task_is_the_mean_of_the_neighbours_outcomes() -> None:
    estimator, g, _ = fitted("S1")
    np.testing.assert_allclose(estimator.score_task(inputs_of()), g.mean(axis=0))


def test_s2_of_a_task_is_the_share_above_one_half() -> None:
    estimator, g, _ = fitted("S2")
    wanted = (1 - TIE_BREAK) * (g > 0.5).mean(axis=0) + TIE_BREAK * g.mean(axis=0)
    np.testing.assert_allclose(estimator.score_task(inputs_of()), wanted)


def test_s3_of_a_task_lies_between_s1_and_the_mean_of_the_model() -> None:
    estimator, g, _ = fitted("S3")
    inputs = inputs_of()
    away = np.mean(1.0 - inputs.neighbours.similarity[:, :5])
    p = estimator.reliability(np.array([away]))[0]
    assert ((p >= 0) & (p <= 1)).all()
    wanted = p * g.mean(axis=0) + (1 - p) * estimator.means_
    np.testing.assert_allclose(estimator.score_task(inputs), wanted, rtol=1e-6)


def test_a_query_alone_is_a_task_of_one() -> None:
    for score in ("S1", "S3"):
        estimator, _, _ = fitted(score)
        inputs = inputs_of()
        single = [estimator.score_task(inputs.rows(np.array([q]))) for q in range(10)]
        np.testing.assert_allclose(estimator.predict(inputs)[0][:10], single)


def test_predictions_are_less_reliable_far_from_the_known_queries() -> None:
    """Which model is right is the other way round in the other dataset."""
    generator = np.random.default_rng(1)
    side = np.where(np.arange(200) % 2, 1.0, -1.0)
    vectors = 0.2 * generator.normal(size=(200, 3)) + side[:, None] * [1.0, 0.0, 0.0]
    right = vectors[:, 0] > 0
    quality = np.stack([right, ~right], axis=1).astype(float)
    # All other queries are neighbours, so that those of the other dataset are among them.
    estimator = ShnitzerEstimator(k=5).fit(made_inputs(vectors, n_models=2, k=199), quality)
    near, far = estimator.reliability(np.array([0.02, 1.9]))
    assert (near > 0.9).all()
    assert (far < 0.2).all()


def test_a_task_is_routed_whole_to_the_model_of_its_kind() -> None:
    data = made_outcomes(200)
    for score in ("S1", "S2", "S3"):
        router = ShnitzerRouter(score=score).fit(data)
        test = made_outcomes(60, seed=1)
        for kind, model in (("sums", "calculator"), ("code", "coder")):
            texts = [t for t, d in zip(test.texts, test.datasets, strict=True) if d == kind]
            assert router.route_task(texts) == model
            np.testing.assert_allclose(router.score_task(texts[::-1]), router.score_task(texts))


def test_a_task_without_queries_and_a_router_without_training_are_refused() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        ShnitzerRouter().route_task(["text"])
    with pytest.raises(RouterError, match="at least one query"):
        ShnitzerRouter().fit(made_outcomes(20)).route_task([])


@pytest.mark.parametrize("wrong", [{"score": "S4"}, {"k": 0}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("shnitzer", **wrong).fit(made_outcomes(20))
