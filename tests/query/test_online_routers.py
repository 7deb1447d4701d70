"""Online routers: a ticket is used once, missing feedback teaches nothing, models come and go."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wye.data import RoutingData
from wye.query import NotFittedError, RouterError, get_router
from wye.query.online.base import OnlineRouter
from wye.query.online.feedback import Outcome
from wye.query.persistence import load_router
from wye.testing.query_data import made_outcomes

NAMES = ("greenserv", "metallm", "mixllm", "pickllm", "c2mab-v")
ARMS = ("one", "two", "three")
GOOD = Outcome(quality=1.0, cost=1e-4, latency=0.5)
each_router = pytest.mark.parametrize("name", NAMES)


def fresh(name: str, **params: Any) -> OnlineRouter:
    made = get_router(name, **({"arms": ARMS} | params))
    assert isinstance(made, OnlineRouter)
    return made


def outcomes(router: OnlineRouter, ticket: Any, outcome: Outcome) -> dict[str, Outcome]:
    return dict.fromkeys(ticket.targets, outcome)


def learned(router: OnlineRouter) -> dict[str, np.ndarray]:
    arrays, _ = router.get_state()
    return {k: v for k, v in arrays.items() if k.split("/")[0] in ("bandit", "head.quality")}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(v, other[k]) for k, v in one.items())


@each_router
def test_a_ticket_teaches_once(name: str) -> None:
    router = fresh(name)
    ticket = router.select("What is 2 + 2?")
    before = learned(router)
    assert 0.0 < ticket.propensity <= 1.0
    assert router.update(ticket, outcomes(router, ticket, GOOD))
    assert not same(before, learned(router))
    with pytest.raises(RouterError, match="not open"):
        router.update(ticket.id, outcomes(router, ticket, GOOD))


@each_router
def test_missing_feedback_teaches_nothing_and_leaves_the_ticket_open(name: str) -> None:
    router = fresh(name)
    ticket = router.select("What is 2 + 2?")
    before = learned(router)
    assert not router.update(ticket, outcomes(router, ticket, Outcome(cost=0.1)))
    assert same(before, learned(router))
    assert len(router.open_) == 1
    assert router.update(ticket.id, outcomes(router, ticket, GOOD))
    assert len(router.open_) == 0


@each_router
def test_outcomes_may_come_late_and_in_any_order(name: str) -> None:
    texts = [f"question number {i} about {'maths' if i % 2 else 'history'}" for i in range(6)]
    states = []
    for order in (range(6), [3, 0, 5, 1, 4, 2]):
        router = fresh(name, **({"algorithm": "epsilon"} if name == "greenserv" else {}))
        tickets = [router.select(t) for t in texts]
        for i in order:
            router.update(tickets[i], outcomes(router, tickets[i], GOOD))
        states.append(learned(router)["head.quality/count"])
    assert states[0].tolist() == states[1].tolist()


@each_router
def test_a_removed_model_is_never_selected_and_its_late_outcome_is_let_pass(name: str) -> None:
    router = fresh(name)
    ticket = router.select("hello")
    gone = ticket.targets[0]
    router.remove_arm(gone)
    assert gone not in router.models_
    before = learned(router)
    late = router.update(ticket, outcomes(router, ticket, GOOD))
    assert late == (len(ticket.targets) > 1)
    if not late:
        assert same(before, learned(router))
    router.add_arm("fourth")
    for i in range(25):
        ticket = router.select(f"query {i}")
        assert gone not in ticket.targets
        router.update(ticket, outcomes(router, ticket, GOOD))
    assert set(router.models_) == {*ARMS, "fourth"} - {gone}


@each_router
def test_only_allowed_models_are_selected(name: str) -> None:
    router = fresh(name)
    for i in range(12):
        ticket = router.select(f"query {i}", allowed=["two"])
        assert ticket.targets == ("two",)
        assert math.isinf(ticket.score[0])
        router.update(ticket, outcomes(router, ticket, GOOD))


@each_router
def test_a_stored_router_decides_alike_and_knows_its_open_tickets(
    name: str, tmp_path: Path
) -> None:
    router = fresh(name)
    for i in range(30):
        ticket = router.select(f"query {i % 7}")
        outcome = Outcome(quality=float(i % 3 == 0), cost=1e-4, latency=1.0)
        router.update(ticket, outcomes(router, ticket, outcome))
    waiting = router.select("still waiting")
    router.save(tmp_path / "router")
    loaded = load_router(tmp_path / "router")
    assert isinstance(loaded, OnlineRouter)
    assert loaded.update(waiting.id, outcomes(router, waiting, GOOD))
    router.update(waiting, outcomes(router, waiting, GOOD))
    for i in range(20):
        one, two = router.select(f"next {i}"), loaded.select(f"next {i}")
        assert (one.targets, one.propensity) == (two.targets, two.propensity)
        np.testing.assert_array_equal(one.score, two.score)
        router.update(one, outcomes(router, one, GOOD))
        loaded.update(two, outcomes(loaded, two, GOOD))


@each_router
def test_a_replay_shows_only_the_outcomes_that_were_chosen(name: str) -> None:
    log = made_outcomes(60, seed=1)
    router = fresh(name, arms=())
    run = router.replay(log, seed=3)
    assert len(run) == len(log)
    assert sorted(run.rows.tolist()) == list(range(len(log)))
    count = run.chosen.sum(axis=0)
    assert router.heads_["quality"].count.tolist() == count.tolist()
    taken = np.where(run.chosen, log.quality[run.rows], -1.0).max(axis=1)
    np.testing.assert_array_equal(run.quality[run.chosen.any(axis=1)], taken[taken >= 0])
    # Whatever the outcomes are that were not chosen, the router does the same.
    again = fresh(name, arms=()).replay(_otherwise(log, run.chosen, run.rows), seed=3)
    np.testing.assert_array_equal(again.chosen, run.chosen)


@each_router
def test_a_model_unknown_on_a_query_is_not_chosen_for_it(name: str) -> None:
    log = made_outcomes(60, seed=2, density=0.5)
    run = fresh(name, arms=()).replay(log)
    assert not (run.chosen & np.isnan(log.quality[run.rows])).any()


def test_a_warm_start_knows_every_known_outcome() -> None:
    log = made_outcomes(80, density=0.6)
    router = get_router("metallm").fit(log)
    assert isinstance(router, OnlineRouter)
    known = np.isfinite(log.quality).sum(axis=0)
    assert router.heads_["quality"].count.tolist() == known.tolist()
    assert router.bandit_.get_state()["count"].tolist() == known.tolist()  # type: ignore[attr-defined]


def test_estimates_grow_certain_with_outcomes_and_unknown_costs_are_unknown() -> None:
    router = fresh("pickllm")
    before = router.estimate(["hello"])
    assert np.isnan(before.cost).all()
    for i in range(40):
        ticket = router.select(f"query {i}", allowed=["one"])
        router.update(ticket, Outcome(quality=0.8, cost=0.01))
    after = router.estimate(["hello"])
    assert after.quality_std[0, 0] < 0.3 * before.quality_std[0, 0]
    assert after.quality_std[0, 1] == before.quality_std[0, 1]
    assert after.quality[0, 0] == pytest.approx(0.8, abs=0.03)
    assert after.cost[0, 0] == pytest.approx(0.01)
    assert np.isnan(after.cost[0, 1])
    assert np.isnan(after.latency).all()


def test_a_model_that_turns_bad_is_noticed() -> None:
    router = fresh("pickllm", arms=("a", "b"))
    for i in range(160):
        for model in ("a", "b"):
            ticket = router.select(f"query {i}", allowed=[model])
            good = float(i % 10 != 0) if i < 100 or model == "b" else 0.0
            router.update(ticket, Outcome(quality=good))
        if i == 99:
            assert router.drifted_ == {}
    assert router.drifted_ == {"a": -1}


def test_the_oldest_open_tickets_are_dropped() -> None:
    router = fresh("pickllm", max_open=3)
    tickets = [router.select("hello") for _ in range(5)]
    with pytest.raises(RouterError, match="older than the last 3"):
        router.update(tickets[1], GOOD)
    assert router.update(tickets[2], GOOD)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda r: r.select("hi", allowed=["nobody"]), "no model is named 'nobody'"),
        (lambda r: r.select("hi", allowed=[]), "allow at least one"),
        (lambda r: r.select(3), "expected a string"),
        (lambda r: r.add_arm("one"), "is there already"),
        (lambda r: r.remove_arm("nobody"), "no model is named"),
        (lambda r: r.update("no-ticket", GOOD), "'no-ticket' is not open"),
        (lambda r: r.update(r.select("hi"), {"other": GOOD}), "outcomes of"),
        (lambda r: r.update(r.select("hi"), 1.0), "expected an Outcome"),
        (lambda r: r.update(r.select("hi"), None), "expected an Outcome"),
        (lambda r: r.update(None, GOOD), "None is not open"),
        (lambda r: r.update({}, GOOD), "is not open"),
        (lambda r: r.add_arm(""), "not empty"),
        (lambda r: r.add_arm(None), "not empty"),
        (lambda r: r.start(["a", "a"]), "different names"),
        (lambda r: r.replay(made_outcomes(5)), "has no outcomes of"),
        (lambda r: Outcome(quality=1.5), "from 0 to 1"),
        (lambda r: Outcome(cost=-1.0), "at least 0"),
        (lambda r: Outcome(quality=True), "expected a number"),
    ],
)
def test_bad_use_is_named(act: Callable[[OnlineRouter], object], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        act(fresh("metallm"))


@each_router
def test_threads_may_choose_learn_and_change_the_models_at_once(name: str) -> None:
    router = fresh(name)
    before = int(router.start(ARMS).heads_["quality"].count.sum())

    def work(worker: int) -> None:
        for step in range(15):
            ticket = router.select(f"question {step} of {worker}")
            assert router.update(ticket, outcomes(router, ticket, GOOD))
            router.estimate([f"question {step}"])
        router.add_arm(f"of {worker}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(router.models_) == len(ARMS) + 8
    assert int(router.heads_["quality"].count.sum()) - before >= 8 * 15
    assert len(router.open_) == 0


def test_a_copy_has_a_lock_of_its_own() -> None:
    router = fresh("metallm")
    router.select("hello")
    twin = copy.deepcopy(router)
    assert twin.select("hello").target in ARMS


def test_the_last_model_stays_and_a_router_without_models_says_so() -> None:
    router = fresh("pickllm", arms=())
    with pytest.raises(NotFittedError, match="add_arm"):
        router.select("hello")
    router.add_arm("first")
    assert router.select("hello").target == "first"
    with pytest.raises(RouterError, match="last model"):
        router.remove_arm("first")


def _otherwise(log: RoutingData, chosen: np.ndarray, rows: np.ndarray) -> RoutingData:
    """The log with all other outcomes than the chosen ones turned round."""
    kept = np.zeros_like(chosen)
    kept[rows] = chosen
    keep = kept[log._cells]
    turned = log.outcomes.assign(
        quality=np.where(keep, log.outcomes["quality"], 1.0 - log.outcomes["quality"]),
        cost_usd=np.where(keep, log.outcomes["cost_usd"], 7.0 * log.outcomes["cost_usd"]),
    )
    return RoutingData(log.queries, turned, log.models, log.name)
