"""The checks of cascades on real answers run from end to end, and can come out both ways."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("reasoning_gym")

from wye.checks.query import (
    acar,
    answer_ranking,
    frugal_cascades,
    solver_pool,
    solvers,
    speculative_decoding,
)
from wye.checks.query.frugal_cascades import Answered

pytestmark = pytest.mark.torch
TINY = solvers.Size(n_layers=1, width=16, n_heads=2, steps=4)


@pytest.fixture(autouse=True)
def _tiny_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_pool, "SIZES", dict.fromkeys(solver_pool.SIZES, TINY))
    monkeypatch.setattr(solver_pool, "FAMILIES", ("sum-easy",))
    monkeypatch.setattr(solver_pool, "QUESTIONS", 12)
    monkeypatch.setattr(solvers, "_PRACTICE", 64)


def test_disagreement_that_tells_is_told_from_disagreement_that_does_not() -> None:
    rng = np.random.default_rng(0)
    n = 400
    # A question is easy or hard: on easy ones all answer alike and rightly (answer 0).
    hard = rng.random(n) < 0.5
    wrong = rng.integers(1, 9, (n, 6))
    good = rng.random((n, 6)) < np.where(hard[:, None], [0.8, 0.7, 0.2, 0.2, 0.2, 0.2], 1.0)
    numbers = np.where(good, 0, wrong)
    figures = acar._measured(numbers, good.astype(float), 3)
    assert figures["accuracy at sigma 0"] > figures["accuracy at sigma 0.5"]
    assert figures["ACAR"] - figures["random modes"] > acar.OVER_RANDOM
    assert figures["probe majority"] < figures["ACAR"] <= figures["full vote"] + 0.05
    assert sum(figures[f"share of mode {m}"] for m in (1, 2, 3)) == pytest.approx(1.0)
    assert figures["calls"] == pytest.approx(
        3 + 2 * figures["share of mode 2"] + 3 * figures["share of mode 3"]
    )
    # Probes that err alike agree as often on the wrong answer as on the right one.
    good[:, 3:] = rng.random((n, 3)) < 0.5
    numbers = np.where(good, 0, 1)
    blind = acar._measured(numbers, good.astype(float), 3)
    assert abs(blind["accuracy at sigma 0"] - blind["accuracy at sigma 0.5"]) < 0.15
    assert blind["ACAR"] - blind["random modes"] < acar.OVER_RANDOM


def test_the_chi_square_test_knows_the_law_that_was_drawn_from() -> None:
    solver = solver_pool.pool_solver("small", 0)
    (item, *_), _ = solver_pool.pool_questions(0)
    laws = speculative_decoding.remembered_laws(solver)
    prompt = np.frombuffer(item.prompt.encode(), np.uint8).astype(np.int64)
    law = laws(prompt, 1)[0]
    rng = np.random.default_rng(1)
    own = Counter(bytes([b]) for b in rng.choice(256, 800, p=law / law.sum()).tolist())
    assert speculative_decoding._fit(solver, item, own, rng) > 1e-3
    other = Counter(bytes([b]) for b in rng.choice(256, 800, p=law[::-1] / law.sum()).tolist())
    assert speculative_decoding._fit(solver, item, other, rng) < 1e-3


def test_the_chi_square_test_rejects_draws_of_an_answer_that_the_law_rules_out() -> None:
    solver = solver_pool.pool_solver("small", 0)
    (item, *_), _ = solver_pool.pool_questions(0)
    # 16 bytes of an untrained law: expected 800 * 256 ** -16 times, drawn 800 times.
    drawn = Counter({b"improbable text.": 800})
    rng = np.random.default_rng(2)
    assert speculative_decoding._fit(solver, item, drawn, rng) < 1e-3


def test_the_chi_square_test_rejects_a_true_law_as_rarely_as_its_p_says() -> None:
    solver = solver_pool.pool_solver("small", 0)
    (item, *_), _ = solver_pool.pool_questions(0)
    prompt = np.frombuffer(item.prompt.encode(), np.uint8).astype(np.int64)
    law = speculative_decoding.remembered_laws(solver)(prompt, 1)[0]
    rng = np.random.default_rng(3)
    p = []
    for _ in range(100):
        drawn = Counter(bytes([b]) for b in rng.choice(256, 400, p=law / law.sum()).tolist())
        p.append(speculative_decoding._fit(solver, item, drawn, rng))
    assert 0.2 < np.mean(np.array(p) < 0.5) < 0.8
    assert np.mean(np.array(p) < 0.05) < 0.2


def answers(n: int, seed: int, *, tells: bool) -> Answered:
    """A small and a large solver; what is observed tells right from wrong answers, or nothing."""
    rng = np.random.default_rng(seed)
    right = (rng.random((n, 2)) < [0.55, 0.85]).astype(float)
    observed = 0.3 * rng.standard_normal((n, 2, 1)) + 2.0 * right[:, :, None] * tells
    texts = [[f"{rng.integers(1000)}", f"{rng.integers(1000)}"] for _ in range(n)]
    return Answered([f"{rng.integers(1000)} + 1" for _ in range(n)], texts, right, observed)


@pytest.mark.parametrize("tells", [True, False])
def test_a_cascade_gains_only_where_scores_tell(tells: bool) -> None:
    learn, test = answers(120, 0, tells=tells), answers(300, 1, tells=tells)
    figures = frugal_cascades.frugal_figures(learn, test, np.array([1.0, 10.0]), 0)
    gain = figures["FrugalGPT"] - figures["random mix at its cost"]
    assert (gain > frugal_cascades.OVER_MIX) is tells
    assert (figures["scorer AUROC"] > 0.9) is tells


def test_a_ranker_that_sees_more_ranks_better() -> None:
    figures = answer_ranking.ranking_figures(
        answers(400, 2, tells=True), answers(150, 3, tells=True), 0
    )
    assert figures["PairRanker with log-probabilities"] > figures["best single"] + 0.02
    assert figures["PairRanker"] <= figures["best single"] + 0.02
    assert figures["majority vote"] == figures["best single"]
    assert figures["oracle"] >= figures["PairRanker with log-probabilities"]
