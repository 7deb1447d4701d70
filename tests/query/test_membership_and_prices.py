"""Models leave and join, and prices change, without anything being learned again."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.query import AutoRouter, FactorisationRouter, NotFittedError, RouterError, get_router
from wye.query.learning.active import CRITERIA, choose_queries
from wye.query.learning.embedded import EmbeddedRouter
from wye.testing import made_outcomes
from wye.testing.query_data import chance_of_success

FIELDS = ("quality", "quality_std", "cost", "latency", "novelty")


def fitted(name: str, n: int = 80) -> EmbeddedRouter:
    params = {"members": ("knn", "linear")} if name == "auto" else {}
    router = get_router(name, **params).fit(made_outcomes(n))
    assert isinstance(router, EmbeddedRouter)
    return router


@pytest.mark.parametrize("name", ["constant", "knn", "linear", "factorisation", "auto"])
def test_a_model_that_leaves_takes_its_column_and_nothing_else(name: str, tmp_path: object) -> None:
    router = fitted(name)
    texts = made_outcomes(12, seed=3).texts
    before = router.estimate(texts)
    left = router.remove_model("calculator").estimate(texts)
    kept = tuple(m for m in before.models if m != "calculator")
    assert left.models == router.models_ == kept
    again = wye.load(router.save(f"{tmp_path}/r")).estimate(texts)
    for field in FIELDS:
        expected = getattr(before.restrict(kept), field)
        np.testing.assert_array_equal(getattr(left, field), expected)
        np.testing.assert_array_equal(getattr(again, field), expected)


def test_the_last_model_and_a_stranger_do_not_leave() -> None:
    router = fitted("constant")
    with pytest.raises(RouterError, match=r"no model 'nobody'.*'generalist'"):
        router.remove_model("nobody")
    for name in router.models_[:-1]:
        router.remove_model(name)
    with pytest.raises(RouterError, match="last model"):
        router.remove_model(router.models_[0])
    with pytest.raises(NotFittedError):
        get_router("knn").remove_model("x")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["linear", "factorisation"])
def test_costs_scale_with_prices_that_scale(name: str, tmp_path: object) -> None:
    router = fitted(name)
    texts = made_outcomes(12, seed=3).texts
    before = router.estimate(texts)
    router.set_prices({"coder": (3.0, 3.0)})
    after = wye.load(router.save(f"{tmp_path}/r")).estimate(texts)
    column = before.models.index("coder")
    expected = before.cost.copy()
    expected[:, column] *= 3.0
    np.testing.assert_allclose(after.cost, expected, rtol=1e-9)
    np.testing.assert_array_equal(after.quality, before.quality)
    router.set_prices({"coder": (1.0, 1.0)})
    np.testing.assert_allclose(router.estimate(texts).cost, before.cost, rtol=1e-9)


def test_the_prompt_and_the_answer_move_with_their_own_prices() -> None:
    """The made costs are (tokens in + tokens out) x one price, with 40 tokens out of the coder."""
    router = fitted("linear", 200)
    texts = made_outcomes(20, seed=4).texts
    tokens = np.array([len(t) // 4 for t in texts])
    column = router.models_.index("coder")
    router.set_prices({"coder": (0.0, 1.0)})
    np.testing.assert_allclose(router.estimate(texts).cost[:, column], 40e-6, rtol=0.15)
    router.set_prices({"coder": (5.0, 0.0)})
    np.testing.assert_allclose(router.estimate(texts).cost[:, column], 5e-6 * tokens, rtol=0.15)


def test_a_price_where_no_cost_was_ever_seen_gives_tokens_times_prices() -> None:
    data = made_outcomes(60)
    outcomes = data.outcomes.assign(cost_usd=np.nan)
    router = get_router("constant").fit(wye.RoutingData(data.queries, outcomes, data.models))
    assert isinstance(router, EmbeddedRouter)
    before = router.estimate(data.texts[:5]).cost[:, 0]
    router.set_prices({"generalist": (6.0, 6.0)})
    np.testing.assert_allclose(router.estimate(data.texts[:5]).cost[:, 0], 2 * before)


@pytest.mark.parametrize("pair", [(1.0,), (-1.0, 1.0), (float("nan"), 1.0)])
def test_prices_that_are_none_are_refused_and_change_nothing(pair: tuple[float, ...]) -> None:
    router = fitted("constant")
    before = router.estimate(["a question"]).cost
    with pytest.raises(RouterError, match="expected two numbers"):
        router.set_prices({"weak": (9.0, 9.0), "coder": pair})  # type: ignore[dict-item]
    np.testing.assert_array_equal(router.estimate(["a question"]).cost, before)
    with pytest.raises(RouterError, match="no model 'x'"):
        router.set_prices({"x": (1.0, 1.0)})


def test_a_newcomer_joins_auto_and_the_others_stay_as_they_are(tmp_path: object) -> None:
    data = made_outcomes(300, seed=8)
    names, newcomer = data.model_names, "coder"
    router = AutoRouter(members=("knn", "linear"))
    router.fit(data.with_models([n for n in names if n != newcomer]))
    test = made_outcomes(150, seed=11)
    before = router.estimate(test.texts)
    few = made_outcomes(40, seed=10)
    router.add_model(newcomer, few.texts, few.quality[:, names.index(newcomer)].tolist())
    after = wye.load(router.save(f"{tmp_path}/r")).estimate(test.texts)
    np.testing.assert_array_equal(after.restrict(before.models).quality, before.quality)
    chance = chance_of_success(test)[:, [names.index(m) for m in after.models]]
    routed = chance[np.arange(150), after.quality.argmax(axis=1)].mean()
    without = chance[np.arange(150), before.quality.argmax(axis=1)].mean()
    assert routed > without + 0.05
    router.remove_model("weak").remove_model(newcomer)
    kept = ("generalist", "calculator")
    left = router.estimate(test.texts)
    np.testing.assert_array_equal(left.quality, before.restrict(kept).quality)
    router.add_model(newcomer, few.texts, [0.5] * 40, cost_usd=0.01)
    again = router.estimate(test.texts)
    assert again.models == (*kept, newcomer)
    np.testing.assert_allclose(again.cost[:, -1], 0.01)


def naive_choice(code: np.ndarray, prior: np.ndarray, noise: float, n: int, rule: str) -> list[int]:
    """Every candidate is tried, with the posterior computed anew each time."""
    spread = code.T @ code / len(code)
    chosen: list[int] = []
    for _ in range(n):
        worth = {}
        for i in set(range(len(code))) - set(chosen):
            rows = code[[*chosen, i]]
            posterior = np.linalg.inv(np.linalg.inv(prior) + rows.T @ rows / noise**2)
            logdet = np.linalg.slogdet(posterior)[1]
            worth[i] = -np.trace(posterior @ spread) if rule == "variance" else -logdet
        chosen.append(max(worth, key=lambda i: worth[i]))
    return chosen


@pytest.mark.parametrize("rule", CRITERIA)
def test_greedy_design_is_that_of_trying_every_candidate(rule: str) -> None:
    rng = np.random.default_rng(1)
    code = np.hstack([np.ones((30, 1)), rng.normal(size=(30, 3))])
    factor = rng.normal(size=(4, 4))
    prior = factor @ factor.T + np.eye(4)
    made = choose_queries(code, prior, 0.7, 6, criterion=rule)
    assert made == naive_choice(code, prior, 0.7, 6, rule)


def test_suggested_queries_leave_less_doubt_than_drawn_ones() -> None:
    data = made_outcomes(200, seed=2)
    router = FactorisationRouter(rank=3).fit(data)
    _, prior, noise = router._joiner().prior()
    code = router._joiner().code(router._inputs(data.texts))

    def doubt(rows: list[int]) -> float:
        posterior = np.linalg.inv(np.linalg.inv(prior) + code[rows].T @ code[rows] / noise**2)
        return float(((code @ posterior) * code).sum(axis=1).mean())

    suggested = router.suggest(data.texts, 12, criterion="variance")
    assert len(set(suggested)) == 12
    rng = np.random.default_rng(0)
    drawn = [doubt(rng.permutation(200)[:12].tolist()) for _ in range(50)]
    assert doubt(suggested) < min(drawn)


@pytest.mark.parametrize(
    ("n", "criterion", "message"),
    [(0, "variance", "0 queries"), (9, "variance", "8 candidates"), (2, "best", "'best'")],
)
def test_a_choice_that_cannot_be_made_is_refused(n: int, criterion: str, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        choose_queries(np.ones((8, 2)), np.eye(2), 1.0, n, criterion=criterion)


def test_a_newcomer_that_leaves_leaves_nothing_behind() -> None:
    data = made_outcomes(100)
    router, clean = FactorisationRouter().fit(data), FactorisationRouter().fit(data)
    few = made_outcomes(20, seed=1)
    for one in (router, clean):
        one.remove_model("weak")
    router.add_model("first", few.texts, [1.0] * 20).add_model("second", few.texts, [0.0] * 20)
    router.remove_model("first").remove_model("second")
    router.add_model("third", few.texts, [0.5] * 20, cost_usd=0.5)
    clean.add_model("third", few.texts, [0.5] * 20, cost_usd=0.5)
    one, other = router.estimate(few.texts), clean.estimate(few.texts)
    assert one.models == other.models == ("generalist", "calculator", "coder", "third")
    for field in FIELDS:
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=1e-12)
