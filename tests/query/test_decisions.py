"""Decisions: ids, candidates, reasons and words of one batch of choices."""

import json
import os
import time
import uuid

import numpy as np
import pytest

from wye.query.base import Estimate, NotFittedError, QueryRouter, RouterError
from wye.query.decisions import as_dict, explain, first_id, format_id
from wye.query.policies import Abstain, Explore, Utility
from wye.testing.policy import example_estimate


class Lengths(QueryRouter):
    """A router whose estimate depends on the length of the text alone."""

    name = "lengths"

    def fit(self, data):
        return self

    def estimate(self, texts):
        n = np.array([len(t) for t in texts], dtype=float)
        quality = np.stack([1 / (1 + n), n / (1 + n)], axis=1)
        cost = np.stack([0 * n + 0.001, 0 * n + np.nan], axis=1)
        return Estimate(
            ("short", "long"), quality, 0 * quality + 0.1, cost, cost, 0 * n, router_cost=1e-6
        )

    def get_state(self):
        raise NotFittedError("it has no state")

    def set_state(self, arrays, values):
        raise NotFittedError("it has no state")


def test_each_text_gets_the_target_of_its_plan():
    routing = Lengths().route(["", "many letters", "x"])
    assert routing.targets == ["short", "long", "short"]
    assert [d.target for d in routing.decisions] == routing.targets
    assert routing.plan.target.tolist() == [0, 1, 0]


def test_ids_sort_by_time_and_are_version_seven():
    first = Lengths().route(["a", "b", "c"]).decisions
    time.sleep(0.002)
    second = Lengths().route(["d"]).decisions
    ids = [d.id for d in (*first, *second)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 4
    for value in ids:
        parsed = uuid.UUID(value)
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
    assert abs((uuid.UUID(ids[0]).int >> 80) / 1000 - time.time()) < 60


def test_a_batch_of_ids_never_runs_into_the_next_instant():
    start = first_id()
    assert format_id(start)[:18] == format_id(start + 10**9)[:18]


def test_candidates_come_best_first_and_unknown_figures_are_none():
    decision = Lengths().route(["hello"], allowed=np.array([False, True])).decisions[0]
    assert [c.target for c in decision.candidates] == ["long", "short"]
    assert [c.allowed for c in decision.candidates] == [True, False]
    assert decision.candidates[0].cost_usd is None
    assert decision.candidates[1].cost_usd == 0.001


def test_a_decision_is_built_once():
    decisions = Lengths().route(["a", "b"]).decisions
    assert decisions[1] is decisions[-1]
    assert decisions[:] == tuple(decisions)
    with pytest.raises(IndexError):
        decisions[2]


def test_a_decision_in_words_names_target_reason_policy_and_candidates():
    text = explain(Lengths().route(["hello there"], Utility()).decisions[0])
    assert text.startswith("long, because long has the highest utility")
    assert "Policy utility(cost_weight=0.0, latency_weight=0.0), router lengths" in text
    assert "  > long: score 0.917" in text
    assert "words 2" in text


def test_a_decision_as_json_holds_no_infinity():
    decision = Lengths().route(["hello"], allowed=np.array([True, False])).decisions[0]
    value = json.loads(json.dumps(as_dict(decision), allow_nan=False))
    assert value["target"] == "short"
    assert value["candidates"][1] == {
        "target": "long",
        "quality": pytest.approx(5 / 6),
        "quality_std": 0.1,
        "cost_usd": None,
        "latency_s": None,
        "score": None,
        "allowed": False,
        "probability": 0.0,
    }
    assert value["router_cost_usd"] == 1e-6
    assert value["router_seconds"] > 0


def test_a_query_that_goes_nowhere_is_a_decision_too():
    decision = Lengths().route(["x"], Abstain(max_novelty=0.0), allowed=np.zeros(2, bool))
    assert decision.targets == [None]
    assert explain(decision.decisions[0]).startswith("No model, because no model is allowed")


def test_a_seed_repeats_what_a_policy_draws():
    texts = [str(k) * k for k in range(50)]
    policy = Explore(epsilon=0.5)
    one, same, other = (Lengths().route(texts, policy, seed=s).targets for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_texts_must_be_a_sequence_of_strings():
    with pytest.raises(RouterError, match="one string, expected a sequence"):
        Lengths().route("hello")
    with pytest.raises(RouterError, match=r"texts\[1\] is int"):
        Lengths().route(["a", 3])


def test_no_texts_give_no_decisions():
    routing = Lengths().route([])
    assert len(routing.decisions) == 0
    assert routing.targets == []


def test_the_words_of_a_choice_are_built_only_when_read():
    estimate = example_estimate(5)
    choice = Utility(cost_weight=1.0).choose(estimate)
    first = choice.reasons[0]
    assert choice.reasons[-5] == first
    assert choice.reasons[0:2][0] == first
    with pytest.raises(IndexError):
        choice.reasons[5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_processes_that_forked_do_not_share_ids():
    first_id()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, b"".join((first_id() % 2**61).to_bytes(8) for _ in range(50)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 400)
    os.close(reading)
    os.close(writing)
    mine = {(first_id() % 2**61).to_bytes(8) for _ in range(300)}
    assert mine.isdisjoint(theirs[i : i + 8] for i in range(0, 400, 8))
