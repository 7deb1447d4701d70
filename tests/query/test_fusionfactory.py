"""One log three ways: routers of arms, remembered thoughts, training pairs; and ranking metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from scipy.optimize import check_grad

from wye.query import FusionFactoryRouter, RouterError
from wye.query.answers.distillation import distil, gold_answer, training_pairs
from wye.query.answers.logged_answers import LoggedAnswer, best_answers, by_query
from wye.query.chat_models.base import ChatModel, Generation, Message
from wye.query.learning.arm_classifiers import dual_encoder_loss
from wye.query.metrics.ranking import hit_at, mean_reciprocal_rank, ndcg_at
from wye.query.prompts.thought_memory import (
    ExtractedTemplates,
    ThoughtMemory,
    WrittenTemplates,
    thought_prompt,
)
from wye.testing import QUERY_ROUTER_CHECKS, made_outcomes
from wye.testing.query_data import chance_of_success

# Query level.


@pytest.mark.parametrize("method", ["svm", "mlp", "bert"])
@pytest.mark.parametrize("check", QUERY_ROUTER_CHECKS, ids=lambda c: c.__name__)
def test_classifiers_keep_the_contract(method: str, check: Callable[..., None]) -> None:
    check(partial(FusionFactoryRouter, method=method))


@pytest.mark.parametrize("method", ["svm", "mlp", "bert"])
def test_unknown_outcomes_are_no_failures_of_an_arm(method: str) -> None:
    data = made_outcomes(200, seed=2, density=0.5)
    router = FusionFactoryRouter(method=method).fit(data)
    quality = router.estimate(made_outcomes(100, seed=3).texts).quality
    assert np.isfinite(quality).all()
    chance = chance_of_success(made_outcomes(100, seed=3))
    chosen = chance[np.arange(100), quality.argmax(axis=1)]
    assert chosen.mean() > chance.mean(axis=0).max()


# A label that goes to the best on average where several are right favours the generalist, and a
# linear machine of few queries gets little beyond that.
@pytest.mark.parametrize(
    ("method", "margin"),
    [
        ("knn", 0.05),
        ("svm", 0.02),
        ("mlp", 0.05),
        ("bert", 0.05),
        pytest.param("graph", 0.05, marks=pytest.mark.torch),
    ],
)
def test_every_method_learns_which_model_is_best(method: str, margin: float) -> None:
    train, test = made_outcomes(300, seed=1), made_outcomes(200, seed=2)
    chance = chance_of_success(test)
    router = FusionFactoryRouter(method=method).fit(train)
    chosen = router.estimate(test.texts).quality.argmax(axis=1)
    assert chance[np.arange(len(test)), chosen].mean() > chance.mean(axis=0).max() + margin


def test_knn_scores_are_the_mean_reward_of_the_neighbours() -> None:
    data = made_outcomes(80, seed=3)
    router = FusionFactoryRouter(method="knn", k=5).fit(data)
    estimator = router.estimators_["knn"]
    inputs = router._inputs(made_outcomes(10, seed=4).texts)
    # Performance first on 0/1 outcomes whose tasks hold both: the reward is the quality itself.
    expected = data.quality[inputs.neighbours.index[:, :5]].mean(axis=1)
    assert np.allclose(estimator.scores(inputs), expected)  # type: ignore[attr-defined]


def test_cost_first_is_cheaper() -> None:
    data = made_outcomes(200, seed=5)
    spent = []
    for scenario in ((1.0, 0.0), (0.2, 0.8)):
        router = FusionFactoryRouter(scenario=scenario).fit(data)
        chosen = router.estimate(data.texts).quality.argmax(axis=1)
        spent.append(data.cost[np.arange(len(data)), chosen].mean())
    assert spent[1] < spent[0]


def test_the_gradient_of_the_dual_encoder_is_exact() -> None:
    g = np.random.default_rng(0)
    x, v, labels = g.standard_normal((7, 5)), g.standard_normal((3, 4)), g.integers(0, 3, 7)

    def arrays(flat):  # type: ignore[no-untyped-def]
        return {"query": flat[:10].reshape(5, 2), "arm": flat[10:].reshape(4, 2)}

    def value(flat):  # type: ignore[no-untyped-def]
        return dual_encoder_loss(x, v, labels, arrays(flat))[0]

    def gradient(flat):  # type: ignore[no-untyped-def]
        found = dual_encoder_loss(x, v, labels, arrays(flat))[1]
        return np.concatenate([found["query"].ravel(), found["arm"].ravel()])

    assert check_grad(value, gradient, g.standard_normal(18)) < 1e-4


@pytest.mark.parametrize("wrong", [{"method": "tree"}, {"k": 0}, {"scenario": (1.0, -1.0)}])
def test_wrong_parameters_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(RouterError):
        FusionFactoryRouter(**wrong).fit(made_outcomes(20))


def test_a_scenario_with_cost_needs_costs() -> None:
    data = made_outcomes(20)
    free = type(data)(data.queries, data.outcomes.assign(cost_usd=np.nan), data.models)
    with pytest.raises(RouterError, match="cost_usd"):
        FusionFactoryRouter(scenario=(0.5, 0.5)).fit(free)


# Answers of a log.


def drawn_answers(n: int, seed: int, query: str = "q", task: str = "t") -> list[LoggedAnswer]:
    g = np.random.default_rng(seed)
    return [
        LoggedAnswer(
            query,
            task,
            f"m{i}",
            "word " * int(g.integers(1, 6)),
            performance=float(g.choice([0.0, 0.5, 1.0])),
            cost=float(g.integers(0, 3)),
            judge=float(g.choice([0.0, 0.3, 0.8])),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_five_then_three_equals_sorting_by_brute_force(seed: int) -> None:
    answers = drawn_answers(12, seed)

    def picked(pool: list[LoggedAnswer], count: int, score: str) -> list[LoggedAnswer]:
        pool, taken = list(pool), []
        while pool and len(taken) < count:
            best = pool[0]
            for other in pool[1:]:
                ours, theirs = getattr(best, score), getattr(other, score)
                if theirs > ours or (theirs == ours and other.cost < best.cost):
                    best = other
            pool.remove(best)
            taken.append(best)
        return taken

    expected = picked(picked(answers, 5, "performance"), 3, "judge")
    assert best_answers(answers) == expected


def test_only_a_declared_group_is_learned_from() -> None:
    answers = drawn_answers(12, 0)
    group = {"m3", "m4"}
    assert {a.model for a in best_answers(answers, models=group)} == group


def test_answers_are_found_by_query_and_model() -> None:
    answers = [*drawn_answers(3, 0, "a"), *drawn_answers(2, 1, "b"), *drawn_answers(1, 2, "a", "u")]
    grouped = by_query(answers)
    assert {k: len(v) for k, v in grouped.items()} == {("t", "a"): 3, ("t", "b"): 2, ("u", "a"): 1}
    with pytest.raises(RouterError, match="twice"):
        by_query([*answers, answers[0]])
    with pytest.raises(RouterError, match="performance"):
        LoggedAnswer("q", "t", "m", "r", performance=float("nan"))
    with pytest.raises(RouterError, match="cost"):
        LoggedAnswer("q", "t", "m", "r", performance=1.0, cost=-1.0)


# Thought level.


def memory(**parameters) -> ThoughtMemory:  # type: ignore[no-untyped-def]
    data = made_outcomes(60, seed=1)
    answers = [
        LoggedAnswer(t, d, m, f"Step by {m}. Then more. And the end.", float(q))
        for t, d, row in zip(data.texts, data.datasets, data.quality, strict=True)
        for m, q in zip(data.model_names, row, strict=True)
    ]
    return ThoughtMemory(**parameters).fit(answers)


def test_a_thought_of_another_task_is_never_returned() -> None:
    held, test = memory(), made_outcomes(30, seed=2)
    generator = np.random.default_rng(0)
    # Tasks that do not fit the text, so that the nearest thoughts are of other tasks.
    tasks = generator.permutation(test.datasets).tolist()
    for task, found in zip(tasks, held.nearest(test.texts, tasks), strict=True):
        assert len(found) == 3
        assert {t.task for t in found} == {task}
    assert held.nearest(["x"], ["no such task"]) == [[]]


def test_the_nearest_thoughts_are_those_with_the_highest_cosine() -> None:
    held, test = memory(), made_outcomes(12, seed=3)
    tasks = test.datasets.tolist()
    vectors = held.embedder_.embed(test.texts)
    for q, found in enumerate(held.nearest(test.texts, tasks, k=4)):
        pool = [i for i, t in enumerate(held.thoughts_) if t.task == tasks[q]]
        best = sorted(pool, key=lambda i: -float(vectors[q] @ held.vectors_[i]))[:4]
        assert [t.query for t in found] == [held.thoughts_[i].query for i in best]


def test_extracted_templates_are_the_first_sentences_of_the_best_answer() -> None:
    answers = [LoggedAnswer("q", "t", "m", "One. Two!\nThree? Four.", 1.0)]
    assert ExtractedTemplates(sentences=3).write("q", answers) == "One. Two! Three?"
    long = [LoggedAnswer("q", "t", "m", "x" * 5000, 1.0)]
    assert len(ExtractedTemplates().write("q", long)) == 1000


class Scribe(ChatModel):
    """Remembers what it was asked and says back a fixed sentence."""

    name = "scribe"

    def __init__(self, says: str = "Add the numbers.") -> None:
        self.says = says
        self.asked: list[tuple[str, float, int]] = []

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        self.asked.append((messages[-1]["content"], temperature, max_tokens))
        return Generation(self.says, 1, 1, "stop", self.name)


def test_written_templates_come_from_the_query_and_its_cut_answers() -> None:
    scribe = Scribe()
    answers = [LoggedAnswer("q", "t", m, m * 3000, 1.0, cost=c) for m, c in (("a", 0), ("b", 1))]
    held = ThoughtMemory(writer=WrittenTemplates(scribe)).fit(answers)
    assert [t.template for t in held.thoughts_] == ["Add the numbers."]
    ((asked, temperature, tokens),) = scribe.asked
    assert asked.count("a" * 1000) == 1
    assert "a" * 1001 not in asked
    assert asked.index("a" * 1000) < asked.index("b" * 1000)
    assert (temperature, tokens) == (0.2, 1024)
    with pytest.raises(RouterError, match="no template"):
        ThoughtMemory(writer=WrittenTemplates(Scribe(" "))).fit(answers)


def test_the_prompt_shows_questions_with_templates_and_then_the_query() -> None:
    held = memory()
    query = made_outcomes(1, seed=4).texts[0]
    task = made_outcomes(1, seed=4).datasets[0]
    (prompt,) = held.prompts([query], [task])
    places = [prompt.index(t.query) for t in held.nearest([query], [task])[0]]
    assert places == sorted(places)
    assert prompt.rindex(query) > places[-1]
    assert thought_prompt(query, []) == query


def test_a_memory_refuses_what_it_cannot_use() -> None:
    with pytest.raises(RouterError, match="fit"):
        ThoughtMemory().nearest(["x"], ["t"])
    with pytest.raises(RouterError, match="above 0"):
        ThoughtMemory().fit([LoggedAnswer("q", "t", "m", "r", 0.0)])
    with pytest.raises(RouterError, match="one each"):
        memory().nearest(["x"], [])


# Model level.


@pytest.mark.parametrize("order", ["perf", "judge", "hybrid"])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_never_hold_a_wrong_response_and_come_best_first(order: str, seed: int) -> None:
    answers = drawn_answers(12, seed)
    by_model = {a.model: a for a in answers}
    pairs = training_pairs(answers, {"q": "G"}, order=order)
    assert (pairs[0].answer, pairs[0].source) == ("G", "gold")
    kept = [by_model[p.source] for p in pairs[1:]]
    assert all(a.performance > 0 for a in kept)
    right = [a for a in answers if a.performance > 0]
    assert len(kept) == min(5, len(right))
    keys = {
        "perf": lambda a: (a.performance, len(a.response)),
        "judge": lambda a: (a.judged, len(a.response)),
        "hybrid": lambda a: (a.performance, a.judged),
    }
    expected = sorted(map(keys[order], right), reverse=True)[: len(kept)]
    assert [keys[order](a) for a in kept] == expected


def test_gold_alone_and_shorter_responses_first() -> None:
    answers = [LoggedAnswer("q", "t", "a", "long one", 1.0), LoggedAnswer("q", "t", "b", "s", 1.0)]
    assert [p.source for p in training_pairs(answers, {"q": "G"}, order="gold")] == ["gold"]
    for shortest, first in ((False, "a"), (True, "b")):
        pairs = training_pairs(answers, {"q": "G"}, shortest=shortest, best=1)
        assert [p.source for p in pairs] == ["gold", first]


def test_the_trainer_gets_the_pairs_and_its_result_comes_back() -> None:
    answers = drawn_answers(6, 0)
    assert distil(answers, {"q": "G"}, len) == len(training_pairs(answers, {"q": "G"}))
    with pytest.raises(RouterError, match="gold answer"):
        training_pairs(answers, {})
    with pytest.raises(RouterError, match="order"):
        training_pairs(answers, {"q": "G"}, order="best")


def test_gold_answers_take_the_form_of_their_task() -> None:
    assert gold_answer("(c)", "option") == "(C)"
    assert gold_answer(" x = 1\n", "code") == "[BEGIN]\nx = 1\n[DONE]"
    assert gold_answer("as it is") == "as it is"
    with pytest.raises(RouterError, match="kind"):
        gold_answer("a", "poem")


# Ranking metrics.


@pytest.mark.parametrize("seed", range(4))
def test_ranking_metrics_equal_their_definitions(seed: int) -> None:
    g = np.random.default_rng(seed)
    scores, gains = g.random((20, 6)), g.choice([0.0, 0.5, 1.0], (20, 6))
    gains[0] = 0.0
    for k in (1, 3, 9):
        found, hits, ranks = [], [], []
        for s, y in zip(scores, gains, strict=True):
            order = sorted(range(6), key=lambda m: -s[m])
            dcg = sum(y[m] / np.log2(r + 2) for r, m in enumerate(order[:k]))
            best = sum(v / np.log2(r + 2) for r, v in enumerate(sorted(y, reverse=True)[:k]))
            found.append(dcg / best if best else 1.0)
            rank = 1 + min(r for r, m in enumerate(order) if y[m] == y.max())
            hits.append(rank <= k)
            ranks.append(1 / rank)
        assert ndcg_at(scores, gains, k) == pytest.approx(np.mean(found))
        assert hit_at(scores, gains, k) == np.mean(hits)
        assert mean_reciprocal_rank(scores, gains) == pytest.approx(np.mean(ranks))


def test_ranking_metrics_refuse_what_they_cannot_rank() -> None:
    ones = np.ones((1, 2))
    for bad in (
        lambda: ndcg_at(ones, -ones, 1),
        lambda: hit_at(ones, ones, 0),
        lambda: hit_at(ones, ones[:, :1], 1),
        lambda: mean_reciprocal_rank(ones, np.full((1, 2), np.nan)),
    ):
        with pytest.raises(RouterError):
            bad()
