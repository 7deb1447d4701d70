"""The pair ranker finds the better answers in any order of showing, and the fuser sees them."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query.base import NotFittedError, RouterError
from wye.query.chat_models import ProgramChatModel
from wye.query.llm_blender import LLMBlender, PairRanker, fusion_prompt, rank_by_wins

GOOD = ("It flows into the sea near {}.", "The river of {} flows into the sea.")
BAD = ("I am not sure, maybe {}?", "Perhaps somebody else knows {}.", "Hm, {}, I cannot say.")


def world(n: int, seed: int) -> tuple[list[str], list[list[str]], np.ndarray]:
    """Three answers each; those that say something of rivers are the better ones."""
    rng = np.random.default_rng(seed)
    questions, answers, quality = [], [], np.zeros((n, 3))
    for i in range(n):
        place = f"town number {rng.integers(1000)}"
        questions.append(f"Where does the river of {place} flow?")
        good = rng.random(3) < 0.4
        pools = [GOOD if g else BAD for g in good]
        answers.append([pool[rng.integers(len(pool))].format(place) for pool in pools])
        quality[i] = good
    return questions, answers, quality


@pytest.fixture(scope="module")
def ranker() -> PairRanker:
    pytest.importorskip("torch")
    return PairRanker(hidden=8, epochs=6).fit(*world(120, 0))


@pytest.mark.torch
def test_the_order_of_showing_does_not_count(ranker: PairRanker) -> None:
    questions, answers, _ = world(20, 1)
    s = ranker.compare(questions, answers)
    np.testing.assert_array_equal(s, -s.transpose(0, 2, 1))
    assert (s[:, range(3), range(3)] == 0).all()
    turned = ranker.compare(questions, [row[::-1] for row in answers])
    np.testing.assert_allclose(turned, s[:, ::-1, ::-1], atol=1e-5)
    alike = ranker.compare(questions[:1], [[answers[0][0]] * 2])
    assert (alike == 0).all()


@pytest.mark.torch
def test_the_better_answers_are_ranked_first(ranker: PairRanker) -> None:
    questions, answers, quality = world(60, 2)
    order = ranker.rank(questions, answers)
    assert sorted(order[0].tolist()) == [0, 1, 2]
    chosen = quality[np.arange(60), order[:, 0]].mean()
    assert chosen > 0.95 * quality.max(axis=1).mean() > quality.mean()


@pytest.mark.torch
def test_a_ranker_is_the_same_under_a_seed_and_reads_what_was_observed() -> None:
    rng = np.random.default_rng(3)
    questions, answers = ["the same"] * 80, [["one", "one"]] * 80
    sure = rng.random((80, 2, 1))
    quality = (sure[:, :, 0] == sure[:, :, 0].max(axis=1, keepdims=True)).astype(float)
    quality[0] = np.nan
    first = PairRanker(hidden=0, epochs=10, most_pairs=60).fit(questions, answers, quality, sure)
    again = PairRanker(hidden=0, epochs=10, most_pairs=60).fit(questions, answers, quality, sure)
    s = first.compare(questions, answers, sure)
    np.testing.assert_array_equal(s, again.compare(questions, answers, sure))
    right = (s[1:, 0, 1] > 0) == (quality[1:, 0] > quality[1:, 1])
    assert right.mean() > 0.95
    with pytest.raises(RouterError, match="figures"):
        first.compare(questions, answers)
    with pytest.raises(RouterError, match="expected finite"):
        first.compare(questions, answers, sure[:1])


def test_wins_decide_and_sums_break_their_ties() -> None:
    rng = np.random.default_rng(4)
    upper = np.triu(rng.normal(size=(50, 4, 4)), 1)
    s = upper - upper.transpose(0, 2, 1)
    for row, order in zip(s, rank_by_wins(s), strict=True):
        key = [(-(row[a] > 0).sum(), -row[a].sum(), a) for a in range(4)]
        assert order.tolist() == sorted(range(4), key=lambda a: key[a])
    with pytest.raises(RouterError, match=r"\[Q, K, K\]"):
        rank_by_wins(np.zeros((2, 3)))
    with pytest.raises(RouterError, match="finite"):
        rank_by_wins(np.full((1, 2, 2), np.nan))


@pytest.mark.torch
def test_the_fuser_is_shown_the_best_answers_first(ranker: PairRanker) -> None:
    questions, _, _ = world(1, 5)
    row = [BAD[0].format("x"), GOOD[0].format("x"), BAD[2].format("x")]
    echo = ProgramChatModel("echo", lambda messages: messages[-1]["content"])
    found = LLMBlender(ranker, echo, top=2).blend(questions[0], row)
    assert found.order[0] == 1
    assert f"Candidate 1: {row[1]}" in found.text
    assert row[found.order[2]] not in found.text
    plain = LLMBlender(ranker).blend(questions[0], row)
    assert plain.text == row[1]
    assert plain.generation is None


@pytest.mark.torch
def test_what_cannot_be_ranked_is_refused(ranker: PairRanker) -> None:
    questions, answers, quality = world(6, 6)
    with pytest.raises(NotFittedError, match="call fit"):
        PairRanker().rank(questions, answers)
    with pytest.raises(RouterError, match="nothing to rank"):
        PairRanker().fit(questions, answers, np.ones((6, 3)))
    with pytest.raises(RouterError, match=r"rows of \[1\] answers"):
        ranker.rank(questions, [["a"]] * 6)
    with pytest.raises(RouterError, match="quality has shape"):
        PairRanker().fit(questions, answers, quality[:, :2])
    with pytest.raises(RouterError, match="hidden=-1"):
        PairRanker(hidden=-1)
    with pytest.raises(RouterError, match="top=0"):
        LLMBlender(ranker, top=0)
    with pytest.raises(RouterError, match="no answers"):
        fusion_prompt("q", [])
