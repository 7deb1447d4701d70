"""What is expected of targets that a router knows and does not know, and budgets that hold."""

from __future__ import annotations

import asyncio
import math
import threading

import httpx
import pandas as pd
import pytest

from wye.data import RoutingData
from wye.gateway.config import Config, ConfigError
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.gateway.router_service import Routed, RouterService
from wye.query import get_router
from wye.query.base import QueryRouter, RouterError


def chat(text: str = "What is 6 x 7?", history: int = 0, **fields) -> ChatRequest:
    messages = [{"role": "user", "content": "x" * 4}] * history
    return parse_chat(
        {"model": "wye", "messages": [*messages, {"role": "user", "content": text}], **fields}
    )


def target(name: str, **values):
    return {"name": name, "base_url": "http://127.0.0.1:1/v1", **values}


def service(targets, policy=None, router=None, spent=None) -> RouterService:
    policies = {"policy": policy or {"kind": "quality"}}
    config = Config.model_validate({"targets": targets, "policies": policies})
    return RouterService(config, router, spent)


def decide(found: RouterService, request: ChatRequest | None = None) -> Routed:
    request = request or chat()
    expected = asyncio.run(found.expect(request))
    return found.decide(request, expected, "policy", {})


@pytest.fixture(scope="module")
def router():
    """A constant router that knows `weak` (0.4, $0.001) and `strong` (0.8, $0.01)."""
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(10)]})
    queries = queries.assign(dataset="d", text="question " + queries["query_id"], split="train")
    outcomes = pd.DataFrame(
        [
            {
                "query_id": f"q{i}",
                "model": model,
                "quality": float(i < right),
                "cost_usd": cost,
                "input_tokens": 10,
                "output_tokens": 10,
                "latency_s": 1.0,
            }
            for i in range(10)
            for model, right, cost in (("weak", 4, 0.001), ("strong", 8, 0.01))
        ]
    )
    models = pd.DataFrame(
        {
            "model": ["weak", "strong"],
            "provider": None,
            "price_in_per_mtok": None,
            "price_out_per_mtok": None,
            "params_b": None,
            "context": None,
        }
    )
    return get_router("constant").fit(RoutingData(queries, outcomes, models))


def candidates(routed):
    return {c["target"]: c for c in routed.record.candidates}


def test_a_target_is_known_by_its_name_or_by_its_upstreams_name(router):
    found = service([target("weak"), target("big", model="strong"), target("new")], router=router)
    assert found.known == ["weak", "big"]
    figures = candidates(decide(found))
    assert figures["weak"]["quality"] == pytest.approx(0.4, abs=0.1)
    assert figures["big"]["quality"] == pytest.approx(0.8, abs=0.1)
    assert figures["weak"]["note"] is None


def test_an_unknown_target_gets_its_configured_quality_or_the_mean_and_says_so(router):
    found = service(
        [target("weak"), target("strong"), target("told", quality=0.95), target("mute")],
        router=router,
    )
    routed = decide(found)
    figures = candidates(routed)
    assert routed.target == "told"
    assert any("0.95 is from wye.toml" in reason for reason in routed.record.reasons)
    mean = (figures["weak"]["quality"] + figures["strong"]["quality"] + 0.95) / 3
    assert figures["mute"]["quality"] == pytest.approx(mean)
    assert "the mean of the targets known so far" in figures["mute"]["note"]


def test_without_a_router_and_without_a_word_one_half_is_assumed():
    [candidate] = candidates(decide(service([target("mute")]))).values()
    assert candidate["quality"] == 0.5
    assert "train a router" in candidate["note"]


def test_the_history_before_the_last_message_is_paid_for_too(router):
    found = service(
        [target("weak", price_in_per_mtok=100.0, price_out_per_mtok=0.0)], router=router
    )
    short = candidates(decide(found))["weak"]["cost_usd"]
    long = candidates(decide(found, chat(history=1000)))["weak"]["cost_usd"]
    assert short == pytest.approx(0.001)
    assert long == pytest.approx(short + 1000 * 100 / 1e6, rel=1e-3)


def test_a_prior_cost_respects_the_most_that_the_client_lets_an_answer_have():
    found = service([target("a", price_in_per_mtok=0.0, price_out_per_mtok=1.0)])
    full = candidates(decide(found))["a"]["cost_usd"]
    cut = candidates(decide(found, chat(max_tokens=3)))["a"]["cost_usd"]
    assert cut == pytest.approx(3e-6)
    assert full == pytest.approx(300e-6)


def test_a_policy_that_needs_a_cost_leaves_out_targets_without_prices():
    found = service(
        [
            target("free", quality=0.9),
            target("priced", quality=0.5, price_in_per_mtok=1.0, price_out_per_mtok=1.0),
        ],
        {"kind": "utility", "cost_weight": 10.0},
    )
    routed = decide(found)
    assert routed.target == "priced"
    assert "set its prices" in routed.record.excluded["free"]
    assert candidates(routed)["free"]["allowed"] is False


def test_the_second_choice_is_the_policys_own_without_the_first():
    found = service([target("a", quality=0.9), target("b", quality=0.8), target("c", quality=0.7)])
    routed = decide(found)
    assert routed.target == "a"
    assert found.again(routed, {"a": "broken"}) == "b"
    assert found.again(routed, {"a": "broken", "b": "broken"}) == "c"
    assert found.again(routed, dict.fromkeys("abc", "broken")) is None


def test_a_policy_that_is_wrong_is_named_at_the_start():
    with pytest.raises(ConfigError, match=r"\[policies\.policy\].*cost_wait"):
        service([target("a")], {"kind": "utility", "cost_wait": 3})
    with pytest.raises(ConfigError, match=r"\[policies\.policy\].*utilty"):
        service([target("a")], {"kind": "utilty"})


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"kind": "explore", "inner": 5}, "inner=5, expected a policy"),
        ({"kind": "abstain", "inner": ["quality"]}, "expected a policy"),
        ({"kind": "explore", "inner": "utilty"}, "unknown policy 'utilty'"),
        ({"kind": "explore", "inner": {"kind": "utilty"}}, "unknown policy 'utilty'"),
        ({"kind": "cascade", "order": []}, "order is empty"),
        ({"kind": "cascade", "max_depth": math.inf}, "infinity"),
        ({"kind": "abstain", "max_std": 10**400}, "too large"),
        ({"kind": "thompson", "sigma": 10**400}, "too large"),
    ],
)
def test_a_parameter_that_no_policy_takes_is_told_and_no_crash(policy, told):
    with pytest.raises(ConfigError, match=rf"\[policies\.policy\].*{told}"):
        service([target("a")], policy)


def test_a_policy_around_another_is_written_as_a_table_or_as_on_the_command_line():
    table = service(
        [target("a")], {"kind": "explore", "inner": {"kind": "utility", "cost_weight": 0}}
    )
    text = service([target("a")], {"kind": "explore", "inner": "utility:cost_weight=0"})
    assert decide(table).record.policy == decide(text).record.policy


class Failing(QueryRouter):
    """A router whose embedding endpoint is down."""

    name = "failing"
    models_ = ("a", "b")

    def __init__(self, *, embedder="static"):
        self.embedder = embedder

    def fit(self, data):
        return self

    def estimate(self, texts):
        raise RouterError("the embedding endpoint does not answer")

    def get_state(self):
        return {}, {}

    def set_state(self, arrays, values):
        pass


def test_when_the_router_fails_priors_decide_and_say_so():
    router = Failing(embedder="endpoint:http://127.0.0.1:1#m")
    found = service([target("a", quality=0.6), target("b", quality=0.7)], router=router)
    routed = decide(found)
    assert routed.target == "b"
    assert any("quality 0.70 is from wye.toml" in reason for reason in routed.record.reasons)


def budgeted(world, total, **values):
    return {
        "targets": [
            world.target("cheap", model="ok@cheap", quality=0.5, price_out_per_mtok=0.0),
            world.target("dear", model="ok@dear", quality=0.9, price_out_per_mtok=1000.0),
        ],
        "policies": {"capped": {"kind": "budget", "total": total, **values}},
    }


def test_a_budget_is_settled_with_what_an_answer_really_cost(serve, world):
    served = serve(**budgeted(world, total=1.0))
    policy = served.gateway.service.policies["capped"]
    served.ask("wye/capped")
    cost = (11 * 1.0 + 6 * 1000.0) / 1e6
    assert policy.spent_ == pytest.approx(cost)
    assert policy.reserved_ == 0
    served.ask("wye/capped", stream=True)
    assert policy.spent_ == pytest.approx(2 * cost)


def test_a_failed_answer_gives_its_reserve_back(serve, world):
    values = budgeted(world, total=1.0)
    values["targets"] = [world.target("only", model="500", price_out_per_mtok=1000.0)]
    served = serve(**values)
    policy = served.gateway.service.policies["capped"]
    assert served.ask("wye/capped").status_code == 503
    assert (policy.spent_, policy.reserved_) == (0, 0)


def test_a_budget_is_never_overspent_by_requests_in_parallel(serve, world):
    # An answer is expected to cost 0.3 at the dear target, so two fit into the total at once.
    served = serve(**budgeted(world, total=0.65, worst_case=1.0))
    threads = [threading.Thread(target=served.ask, args=("wye/capped",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    policy = served.gateway.service.policies["capped"]
    rows = served.http.get("/v1/decisions?limit=100").json()["data"]
    assert len(rows) == 20
    assert policy.spent_ == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert policy.spent_ <= 0.65
    assert policy.reserved_ == 0


def test_money_is_held_for_the_answers_in_flight_and_for_no_other(serve, world):
    values = budgeted(world, total=0.65, worst_case=1.0)
    values["targets"][0]["model"] = "hang-midway"
    values["targets"][1]["context"] = 1000
    served = serve(**values)
    policy = served.gateway.service.policies["capped"]
    long = [{"role": "user", "content": "six times seven " * 1000}]
    body = {"model": "wye/capped", "messages": long, "stream": True}
    with served.http.stream("POST", "/v1/chat/completions", json=body) as waiting:
        assert waiting.headers["x-wye-target"] == "cheap"
        held = policy.reserved_
        assert 0 < held < 0.01
        assert served.ask("wye/capped").headers["x-wye-target"] == "dear"
        assert policy.reserved_ == pytest.approx(held)


def test_a_budget_that_is_spent_stays_spent_after_a_restart(serve, world):
    first = serve(**budgeted(world, total=1.0))
    first.ask("wye/capped")
    spent = first.gateway.service.policies["capped"].spent_
    first.gateway.store.flush()
    second = serve(**budgeted(world, total=1.0))
    assert second.gateway.service.policies["capped"].spent_ == pytest.approx(spent)


def test_a_budget_with_nothing_left_is_a_clear_error(serve, world):
    served = serve(**budgeted(world, total=0.0))
    answer = served.ask("wye/capped")
    assert answer.status_code == 503
    assert "$0 that are left" in answer.json()["error"]["message"]


def test_many_requests_at_once_are_all_answered_and_all_remembered(serve, world):
    served = serve(
        targets=[world.target("ok", quality=0.5), world.target("slow-stream", quality=0.4)]
    )
    streamed = [bool(i % 2) for i in range(100)]
    answers: list[httpx.Response] = []

    def ask(i: int) -> None:
        model = ("wye", "ok", "slow-stream")[i % 3]
        answers.append(served.ask(model, text=f"question {i}", stream=streamed[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [200] * 100
    assert len({a.headers["x-wye-decision"] for a in answers}) == 100
    summary = served.http.get("/api/summary").json()
    assert (summary["requests"], summary["errors"]) == (100, 0)
    assert summary["spend_usd"] == pytest.approx(100 * 23e-6)
    assert "wye_requests_in_flight 0.0" in served.http.get("/metrics").text
    rows = served.http.get("/v1/decisions?limit=1000").json()["data"]
    assert {row["text"] for row in rows} == {f"question {i}" for i in range(100)}


def test_a_policy_that_could_never_choose_stops_the_start_with_the_remedy():
    with pytest.raises(ConfigError, match="price_in_per_mtok"):
        service([target("small"), target("large")], {"kind": "utility", "cost_weight": 50.0})


def test_one_known_price_is_enough_to_start():
    priced = target("small", price_in_per_mtok=1.0, price_out_per_mtok=1.0)
    found = service([priced, target("large")], {"kind": "utility", "cost_weight": 50.0})
    assert decide(found).target == "small"
