"""RouterDC: what is pulled, what is pushed, and both losses by loops."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import RouterError, get_router
from wye.query.routerdc import (
    RouterDCEstimator,
    contrasts,
    draw_queries,
    sample_llm_loss,
    sample_sample_loss,
)
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def by_loops(row: np.ndarray) -> dict[int, set[int]]:
    """Positives of one query with their negatives."""
    known = [m for m in range(len(row)) if np.isfinite(row[m])]
    best = sorted(known, key=lambda m: (-row[m], m))[:3]
    worst = [m for m in sorted(known, key=lambda m: (row[m], m))[:3] if row[m] <= 0.5]
    return {p: {n for n in worst if row[n] < row[p]} for p in best if row[p] > 0}


def test_contrasts_equal_the_definition_by_loops() -> None:
    generator = np.random.default_rng(0)
    quality = generator.integers(0, 5, size=(200, 7)) / 4
    quality[generator.random(quality.shape) < 0.2] = np.nan
    positive, negative = contrasts(quality)
    for q, row in enumerate(quality):
        wanted = by_loops(row)
        assert set(np.flatnonzero(positive[q]).tolist()) == set(wanted)
        for p in range(7):
            assert set(np.flatnonzero(negative[q, p]).tolist()) == wanted.get(p, set())


def test_the_contrast_of_models_equals_the_formula_by_loops() -> None:
    generator = np.random.default_rng(1)
    quality = generator.random((20, 6)) * (generator.random((20, 6)) < 0.7)
    scores = generator.normal(size=(20, 6))
    positive, negative = contrasts(quality)
    total = 0.0
    for q in range(20):
        for p, against in by_loops(quality[q]).items():
            up = np.exp(scores[q, p])
            total -= np.log(up / (up + sum(np.exp(scores[q, n]) for n in against)))
    made = sample_llm_loss(*(torch.tensor(a) for a in (scores, positive, negative)))
    assert float(made) == pytest.approx(total / 20)


def test_a_query_that_tells_no_models_apart_teaches_nothing_of_them() -> None:
    quality = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 1.0, np.nan]])
    positive, negative = (torch.tensor(a) for a in contrasts(quality))
    scores = torch.randn(3, 3, requires_grad=True)
    loss = sample_llm_loss(scores, positive, negative)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(scores.grad).all()
    assert float(scores.grad.abs().max()) < 1e-6


def test_the_contrast_of_queries_equals_the_formula() -> None:
    close = np.random.default_rng(2).normal(size=(9, 4))
    wanted = -np.mean(np.log(np.exp(close[:, 0]) / np.exp(close).sum(axis=1)))
    assert float(sample_sample_loss(torch.tensor(close))) == pytest.approx(wanted)


def test_draws_keep_to_their_clusters_and_reach_everybody() -> None:
    clusters = torch.tensor([0, 1, 1, 2, 0, 1, 2, 1, 0, 3])
    generator = torch.Generator().manual_seed(0)
    reached: dict[int, set[int]] = {}
    for _ in range(100):
        able, chosen = draw_queries(clusters, generator)
        assert able.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
        assert (clusters[chosen[:, 0]] == clusters[able]).all()
        assert (chosen[:, 0] != able).all()
        assert (clusters[chosen[:, 1:]] != clusters[able][:, None]).all()
        for query, row in zip(able.tolist(), chosen.tolist(), strict=True):
            reached.setdefault(query, set()).update(row)
    assert reached[1] == {2, 5, 7} | {0, 3, 4, 6, 8, 9}


def test_a_batch_of_one_cluster_or_of_none_twice_draws_nobody() -> None:
    generator = torch.Generator().manual_seed(0)
    for clusters in ([1, 1, 1], [0, 1, 2]):
        assert not len(draw_queries(torch.tensor(clusters), generator)[0])


def test_cosines_stay_between_minus_one_and_one_and_rank_the_right_model_first() -> None:
    vectors = np.random.default_rng(3).normal(size=(120, 4))
    inputs = made_inputs(vectors, n_models=2)
    right = vectors[:, 0] > 0
    quality = np.stack([right, ~right], axis=1).astype(float)
    estimator = RouterDCEstimator(epochs=60, n_clusters=4).fit(inputs, quality)
    scores = estimator.scores(inputs)
    assert np.abs(scores).max() <= 1.0 + 1e-6
    assert (scores.argmax(axis=1) == quality.argmax(axis=1)).mean() > 0.9


def test_a_model_without_outcomes_stands_amid_the_others() -> None:
    inputs = made_inputs(np.random.default_rng(4).normal(size=(30, 4)))
    quality = np.random.default_rng(5).random((30, 3))
    quality[:, 2] = np.nan
    models = RouterDCEstimator(epochs=2).fit(inputs, quality).models_
    middle = models[0] + models[1]
    np.testing.assert_allclose(models[2], middle / np.linalg.norm(middle), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"temperature": 0.0}, {"weight": -1.0}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("routerdc", **wrong).fit(made_outcomes(20))
