"""Adaptive-RAG's labels against a loop, and what its classifier says of complexity."""

from __future__ import annotations

import numpy as np

from wye.query import get_router
from wye.query.adaptive_rag import complexity_labels, simplicity
from wye.query.learning.inputs import Logged
from wye.testing import made_outcomes


def logged(cost: np.ndarray, size: np.ndarray) -> Logged:
    names = tuple("abc"[: size.size])
    return Logged(np.array(["x"] * len(cost)), cost, names, size)


def test_simple_means_cheap_else_small_else_bad() -> None:
    means, size = np.array([0.3, 0.2, 0.9]), np.array([7.0, 70.0, 1.0])
    cost = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, np.nan]])
    assert simplicity(logged(cost, size), means).tolist() == [2, 0, 1]
    cost[:, 0] = np.nan
    assert simplicity(logged(cost, size), means).tolist() == [1, 2, 0]
    size[1] = np.nan
    assert simplicity(logged(cost, size), means).tolist() == [1, 0, 2]
    assert simplicity(None, means).tolist() == [1, 0, 2]


def test_labels_are_the_simplest_right_target_else_what_the_data_set_needs() -> None:
    generator = np.random.default_rng(0)
    quality = (generator.random((60, 3)) < [0.2, 0.3, 0.5]).astype(float)
    quality[generator.random(quality.shape) < 0.2] = np.nan
    datasets = generator.choice(["one", "two"], 60)
    rank, means = np.array([1, 0, 2]), np.nanmean(quality, axis=0)
    found = complexity_labels(quality, rank, means, datasets)
    for q in range(60):
        right = [m for m in (1, 0, 2) if quality[q, m] >= 0.5]
        if right:
            assert found[q] == right[0]
        else:
            part = np.nanmean(quality[datasets == datasets[q]], axis=0)
            assert found[q] == np.nanargmax(part)


def test_the_prior_of_a_data_set_moves_only_queries_that_nobody_answers() -> None:
    quality = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    datasets = np.array(["hard", "hard", "easy", "easy"])
    labels = complexity_labels(quality, np.array([0, 1]), np.array([0.25, 0.25]), datasets)
    assert labels.tolist() == [1, 1, 0, 0]


def test_the_classifier_names_the_simplest_sufficient_target_of_each_kind() -> None:
    train, test = made_outcomes(300, seed=1), made_outcomes(150, seed=2)
    router = get_router("adaptive-rag").fit(train)
    p = router.label_probabilities(test.texts)  # type: ignore[attr-defined]
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-5)
    names = np.array(train.model_names)[p.argmax(axis=1)]
    assert (names[test.datasets == "sums"] == "calculator").mean() > 0.9
    assert (names[test.datasets == "code"] == "coder").mean() > 0.5
    assert (names[test.datasets == "geography"] == "generalist").mean() > 0.5


def test_two_targets_are_ordered_by_the_probability_of_the_simple_label() -> None:
    data = made_outcomes(120).with_models(("generalist", "calculator"))
    router = get_router("adaptive-rag").fit(data)
    quality = router.estimate(data.texts).quality
    simple = router.label_probabilities(data.texts)[:, 1]  # type: ignore[attr-defined]
    order = np.argsort(simple)
    assert (np.diff((quality[:, 1] - quality[:, 0])[order]) >= -1e-12).all()
