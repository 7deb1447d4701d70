"""The check of strategies for two models can come out both ways, and picks the two models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wye.embed
from wye.checks import CheckContext
from wye.checks.query import routing_strategies
from wye.checks.query.strong_and_weak import dataset_gap, strong_and_weak
from wye.checks.query.trials import trials
from wye.data import RoutingData


@pytest.fixture
def static_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The static embedder in place of MiniLM, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    embedder = wye.embed.get_embedder("static")
    monkeypatch.setattr(wye.embed, "get_embedder", lambda spec: embedder)


@pytest.mark.usefixtures("static_vectors")
def test_hybridllm_passes_where_the_text_tells_the_models_apart(readable: RoutingData) -> None:
    result = routing_strategies.check_hybridllm(CheckContext(readable, (0,)))
    assert result.holds
    assert result.figures["APGR oracle"] >= result.figures["APGR HybridLLM det"] > 0.8
    assert {f"CPT80 HybridLLM {loss}" for loss in ("det", "prob", "trans")} <= set(result.figures)


@pytest.mark.usefixtures("static_vectors")
def test_bert_fails_where_the_text_says_nothing(unreadable: RoutingData) -> None:
    result = routing_strategies.check_routellm_bert(CheckContext(unreadable, (0,)))
    assert not result.holds


def test_strong_is_the_best_and_weak_the_cheapest_other(readable: RoutingData) -> None:
    (trial,) = trials(CheckContext(readable, (0,)))
    two = strong_and_weak(trial)
    weak, strong = two.train.model_names
    assert strong == trial.train.model_names[trial.best]
    assert weak != strong
    assert two.strong.mean() > two.weak.mean()
    np.testing.assert_array_equal(two.test.quality, np.stack([two.weak, two.strong], axis=1))


def test_the_gap_of_a_data_set_is_read_in_training(readable: RoutingData) -> None:
    (trial,) = trials(CheckContext(readable, (0,)))
    two = strong_and_weak(trial)
    gap = dataset_gap(two.train, two.test)
    name = two.test.datasets[0]
    quality = two.train.quality[two.train.datasets == name]
    assert gap[0] == pytest.approx((quality[:, 1] - quality[:, 0]).mean())
