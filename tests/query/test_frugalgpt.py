"""A chain asks cheap models first, keeps within its budget, and is the best of all chains."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from wye.query.answers.completion_cache import CachedChatModel
from wye.query.base import NotFittedError, RouterError
from wye.query.chat_models import ProgramChatModel
from wye.query.frugalgpt import FrugalGPT
from wye.query.learning.answer_scorer import AnswerScorer
from wye.query.learning.chain_search import Chain, run_chain, search_chain
from wye.query.prompts.saving import (
    SolvedExample,
    concatenated,
    prompt_with,
    selected_examples,
    separated,
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def made(n: int, m: int, seed: int, *, levels: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    quality = (rng.random((n, m)) < np.linspace(0.4, 0.9, m)).astype(float)
    score = np.clip(0.4 * quality + 0.6 * rng.random((n, m)), 0, 1)
    if levels:
        score = np.round(score * levels) / levels
    return score, quality, np.geomspace(1, 9, m) * rng.uniform(0.8, 1.2, (n, m))


def naive_run(chain: Chain, score: np.ndarray, quality: np.ndarray, cost: np.ndarray) -> tuple:
    qualities, costs = [], []
    for q in range(len(score)):
        paid = 0.0
        for place, m in enumerate(chain.stages):
            paid += cost[q, m]
            last = place == len(chain.stages) - 1
            if last or 1 - score[q, m] < chain.thresholds[place]:
                break
        qualities.append(quality[q, m])
        costs.append(paid)
    return np.array(qualities), np.array(costs)


def naive_best(score: np.ndarray, quality: np.ndarray, cost: np.ndarray, budget: float) -> float:
    """Mean quality of the best chain of all with all thresholds that differ."""
    best = -1.0
    distance = 1 - score
    for length in (1, 2, 3):
        for stages in permutations(range(score.shape[1]), length):
            cuts = [np.append(np.unique(distance[:, m]), 2.0) for m in stages[:-1]]
            for thresholds in product(*cuts):
                value, paid = naive_run(Chain(stages, thresholds), score, quality, cost)
                if paid.mean() <= budget:
                    best = max(best, float(value.mean()))
    return best


# Chains.


@pytest.mark.parametrize("levels", [0, 4])
def test_a_chain_runs_as_told_query_by_query(levels: int) -> None:
    score, quality, cost = made(40, 3, 0, levels=levels)
    for chain in (Chain((1,), ()), Chain((0, 2), (0.5,)), Chain((2, 0, 1), (0.25, 0.75))):
        found = run_chain(chain, score, quality, cost)
        value, paid = naive_run(chain, score, quality, cost)
        np.testing.assert_array_equal(found.quality, value)
        np.testing.assert_allclose(found.cost, paid)
        np.testing.assert_array_equal(found.answered_by, np.array(chain.stages)[found.stage])


def test_the_last_stage_always_accepts() -> None:
    score, quality, cost = made(20, 2, 1)
    found = run_chain(Chain((0, 1), (-1.0,)), 0 * score, quality, cost)
    assert set(found.answered_by.tolist()) == {1}
    np.testing.assert_allclose(found.cost, cost.sum(axis=1))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("budget", [1.3, 3.0, 6.0])
def test_the_search_finds_the_best_of_all_chains(seed: int, budget: float) -> None:
    score, quality, cost = made(14, 3, seed, levels=5)
    found = run_chain(search_chain(score, quality, cost, budget), score, quality, cost)
    assert found.cost.mean() <= budget
    assert found.quality.mean() == pytest.approx(naive_best(score, quality, cost, budget))


def test_more_budget_never_buys_less() -> None:
    score, quality, cost = made(300, 3, 5)
    reached = []
    for budget in (1.2, 2.0, 4.0, 8.0, 20.0):
        chain = search_chain(score, quality, cost, budget)
        outcome = run_chain(chain, score, quality, cost)
        assert outcome.cost.mean() <= budget * (1 + 1e-9)
        reached.append(outcome.quality.mean())
    assert reached == sorted(reached)
    assert reached[-1] >= quality.mean(axis=0).max()


def test_one_model_is_that_model() -> None:
    score, quality, cost = made(30, 1, 3)
    system = FrugalGPT(budget=5.0).fit_chain(["only"], score, quality, cost)
    assert system.chain_ == Chain((0,), ())
    found = system.run(score, quality, cost)
    np.testing.assert_array_equal(found.quality, quality[:, 0])
    np.testing.assert_array_equal(found.cost, cost[:, 0])


def test_scores_that_know_all_reach_the_oracle() -> None:
    _, quality, cost = made(200, 2, 4)
    chain = search_chain(quality, quality, cost, 100.0, max_length=2)
    assert run_chain(chain, quality, quality, cost).quality.mean() == quality.max(axis=1).mean()


def test_a_chain_that_makes_no_sense_is_refused() -> None:
    score, quality, cost = made(30, 2, 3)
    with pytest.raises(RouterError, match="less than the cheapest"):
        search_chain(score, quality, cost, 0.1)
    with pytest.raises(RouterError, match="expected >= 1"):
        search_chain(score, quality, cost, 5.0, grid=0)
    with pytest.raises(RouterError, match="unknown"):
        search_chain(score, quality * np.nan, cost, 5.0)
    with pytest.raises(RouterError, match="expected one number"):
        Chain((0, 1), ())
    with pytest.raises(RouterError, match="none twice"):
        Chain((0, 0), (0.5,))
    with pytest.raises(RouterError, match="budget=0"):
        FrugalGPT(budget=0)
    with pytest.raises(NotFittedError, match="no chain"):
        FrugalGPT(budget=1.0).run(score, quality, cost)


# Scorers and the live cascade.


def world(n: int = 90) -> tuple[list[str], list[list[str]], np.ndarray, np.ndarray]:
    """The cheap model mumbles where it is wrong; the dear one is always right."""
    questions = [f"What is {i} plus {i % 7}?" for i in range(n)]
    good = np.arange(n) % 3 != 0
    answers = [
        [f"The sum is {i + i % 7}." if ok else "perhaps several, maybe unsure", str(i + i % 7)]
        for i, ok in enumerate(good)
    ]
    quality = np.stack([good.astype(float), np.ones(n)], axis=1)
    return questions, answers, quality, np.tile([1.0, 10.0], (n, 1))


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_scorer_tells_right_from_wrong_answers(hidden: int) -> None:
    questions, answers, quality, _ = world()
    cheap = [row[0] for row in answers]
    scorer = AnswerScorer(hidden=hidden).fit(questions[:60], cheap[:60], quality[:60, 0])
    score = scorer.score(questions[60:], cheap[60:])
    right = quality[60:, 0] > 0
    assert ((score > 0) & (score < 1)).all()
    assert score[right].min() > score[~right].max()
    assert scorer.score([], []).shape == (0,)


def test_a_scorer_reads_what_was_observed() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random((80, 1))
    right = (sure[:, 0] > 0.5).astype(float)
    same = ["again"] * 80
    scorer = AnswerScorer().fit(same, same, right, sure)
    score = scorer.score(same[:2], same[:2], np.array([[0.1], [0.9]]))
    assert score[0] < 0.5 < score[1]
    with pytest.raises(RouterError, match="-1 columns"):
        scorer.score(same, same)
    with pytest.raises(RouterError, match="finite figures"):
        scorer.score(same, same, sure * np.nan)


def test_scores_out_of_fold_come_from_heads_that_had_not_seen_the_answer() -> None:
    rng = np.random.default_rng(1)
    texts = [f"answer {i}" for i in range(60)]
    noise = rng.random((60, 40))
    right = (rng.random(60) < 0.5).astype(float)
    scorer = AnswerScorer(strength=1.0)
    held_out = scorer.fit_out_of_fold(texts, texts, right, noise)
    seen = scorer.score(texts, texts, noise)
    # There is nothing to learn: what looks learned on the answers themselves is gone out of fold.
    assert np.corrcoef(seen, right)[0, 1] > 0.9
    assert abs(np.corrcoef(held_out, right)[0, 1]) < 0.4
    np.testing.assert_array_equal(
        AnswerScorer(strength=1.0).fit(texts, texts, right, noise).score(texts, texts, noise), seen
    )
    with pytest.raises(RouterError, match="n_folds=1"):
        scorer.fit_out_of_fold(texts, texts, right, n_folds=1)


def test_answers_that_are_all_right_teach_a_level() -> None:
    score = AnswerScorer().fit(["a", "b"], ["c", "d"], np.ones(2)).score(["e"], ["f"])
    assert score[0] > 0.9
    with pytest.raises(NotFittedError, match="call fit"):
        AnswerScorer().score(["a"], ["b"])
    with pytest.raises(RouterError, match="within 0 and 1"):
        AnswerScorer().fit(["a"], ["b"], np.array([np.nan]))
    with pytest.raises(RouterError, match="strength=0"):
        AnswerScorer(strength=0)


def test_a_live_cascade_pays_the_dear_model_only_where_it_must() -> None:
    questions, answers, quality, cost = world()
    system = FrugalGPT(budget=5.0).fit(["cheap", "dear"], questions, answers, quality, cost)
    assert system.chain_.stages == (0, 1)
    recorded = system.run(system.score(questions, answers), quality, cost)
    assert recorded.quality.mean() > 0.95
    assert recorded.cost.mean() <= 5.0
    said = dict(zip(questions, answers, strict=True))
    models = {
        name: ProgramChatModel(
            name,
            lambda messages, m=m: said[messages[-1]["content"]][m],
            price_out_per_mtok=1e6 * (1 + 9 * m),
        )
        for m, name in enumerate(["cheap", "dear"])
    }
    easy, hard = system.answer(questions[1], models), system.answer(questions[0], models)
    assert (easy.model, hard.model) == ("cheap", "dear")
    assert hard.text == answers[0][1]
    assert easy.scores["cheap"] > hard.scores["cheap"]
    # The rejected answer is paid too: five words at 1 and one at 10.
    assert hard.cost_usd == pytest.approx(len(answers[0][0].split()) + 10)
    with pytest.raises(RouterError, match=r"lacks \['dear'\]"):
        system.answer(questions[0], {"cheap": models["cheap"]})
    with pytest.raises(RouterError, match="90 rows of 2"):
        FrugalGPT(budget=5.0).fit(["a", "b"], questions, answers[1:], quality, cost)


# The two other ways to save.


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_an_equal_request_is_answered_once_and_for_nothing() -> None:
    model = CachedChatModel(
        ProgramChatModel("m", lambda m: m[-1]["content"][::-1], price_out_per_mtok=1.0), capacity=2
    )
    first, again = model.generate(ask("abc")), model.generate(ask("abc"))
    assert first.text == again.text == "cba"
    assert first.cost_usd > 0 == again.cost_usd
    model.generate(ask("abc"), max_tokens=5)
    assert (model.hits, model.misses) == (1, 2)
    model.generate(ask("new"))
    model.generate(ask("abc"))
    assert (model.hits, model.misses) == (1, 4)


def test_drawn_answers_are_kept_only_under_a_seed() -> None:
    model = CachedChatModel(ProgramChatModel("m", lambda m: "x"))
    for seed in (None, None, 3, 3):
        model.generate(ask("abc"), temperature=0.7, seed=seed)
    assert (model.hits, model.misses) == (1, 3)


def test_a_similar_request_is_answered_alike_only_where_wanted() -> None:
    echo = ProgramChatModel("m", lambda m: m[-1]["content"])
    one, other = "What is the capital of France?", "what's the capital of France"
    exact, similar = CachedChatModel(echo), CachedChatModel(echo, similar_above=0.8)
    for model in (exact, similar):
        model.generate(ask(one))
    assert exact.generate(ask(other)).text == other
    assert similar.generate(ask(other)).text == one
    system = [{"role": "system", "content": "Answer in French."}]
    assert similar.generate([*system, *ask(other)]).text == other
    assert similar.generate(ask("Compute 3 * 4.")).text == "Compute 3 * 4."
    with pytest.raises(RouterError, match="similar_above"):
        CachedChatModel(echo, similar_above=0.0)


def test_the_nearest_examples_stay_within_the_room_for_them() -> None:
    pool = [
        SolvedExample("What is the capital of Peru?", "Lima"),
        SolvedExample("What is 3 * 4?", "12"),
        SolvedExample("What is 7 * 8?", "56"),
    ]
    kept = selected_examples("What is 5 * 6?", pool, keep=2)
    assert {e.answer for e in kept} == {"12", "56"}
    size = max(len(e.shown()) for e in kept)
    assert len(selected_examples("What is 5 * 6?", pool, keep=3, most_characters=size)) == 1
    assert selected_examples("What is 5 * 6?", [], keep=2) == []
    assert prompt_with("q", kept).endswith("Question: q\nAnswer:")
    with pytest.raises(RouterError, match="keep=-1"):
        selected_examples("q", pool, keep=-1)


def test_answers_to_several_questions_are_read_by_number() -> None:
    prompt = concatenated(["first\nquestion", "second"])
    assert prompt.splitlines()[1:] == ["1. first question", "2. second"]
    assert separated("1. 4\n2) a long\nanswer\n", 2) == ["4", "a long\nanswer"]
    assert separated("2. b\n2. c\n3: d", 3) == [None, None, "d"]
    assert separated("no numbers", 1) == [None]
    with pytest.raises(RouterError, match="no questions"):
        concatenated([])
