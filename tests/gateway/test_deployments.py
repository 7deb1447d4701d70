"""Several servers of one target: shares, failures of one, hedged requests, and room at a target."""

from __future__ import annotations

import json
import threading

import pytest

from wye.gateway.breaker import State
from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.money.keys import KeyBook, Limits


def spread(world, *models, **values):
    """One target that several deployments serve; each one's model says how it behaves."""
    deployments = [
        {"base_url": world.base_url, "model": model, "weight": weight} for model, weight in models
    ]
    prices = {"price_in_per_mtok": 1.0, "price_out_per_mtok": 2.0}
    return {"name": "spread", "deployments": deployments, **prices, **values}


def idle(served):
    return all(deployment.in_flight == 0 for deployment in served.gateway.deployments)


def test_each_deployment_gets_its_share(serve, world, eventually):
    served = serve(targets=[spread(world, ("ok@share1", 2), ("ok@share2", 1))])
    for at in range(6):
        answer = served.ask(stream=bool(at % 2))
        assert (answer.status_code, answer.headers["x-wye-target"]) == (200, "spread")
    assert len(world.seen("ok@share1")) == 4
    assert len(world.seen("ok@share2")) == 2
    eventually(lambda: idle(served))


@pytest.mark.parametrize("stream", [False, True])
def test_another_deployment_answers_at_once_where_one_fails(serve, world, stream):
    bad, good = f"401@bad{stream}", f"ok@good{stream}"
    served = serve(
        targets=[spread(world, (bad, 1), (good, 1))], breaker={"failures": 2, "cooldown": 60}
    )
    answers = [served.ask(stream=stream) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(world.seen(bad)) == 2
    assert len(world.seen(good)) == 6
    failed = [served.decision(a)["outcome"]["attempts"] for a in answers]
    assert [len(attempts) for attempts in failed].count(1) == 2
    [attempt] = next(attempts for attempts in failed if attempts)
    assert (attempt["target"], attempt["deployment"]) == ("spread", "spread #1")
    states = [d.breaker.state for d in served.gateway.deployments]
    assert states == [State.OPEN, State.CLOSED]
    assert served.http.get("/healthz").json()["targets"] == {"spread": "closed"}


def test_the_target_rests_once_all_its_deployments_do(serve, world):
    served = serve(
        targets=[spread(world, ("401@all1", 1), ("401@all2", 1))],
        breaker={"failures": 1, "cooldown": 60},
    )
    assert served.ask().status_code == 503
    assert served.http.get("/healthz").json()["targets"] == {"spread": "open"}
    again = served.ask()
    assert "left alone" in again.json()["error"]["message"]
    assert int(again.headers["retry-after"]) > 50
    assert len(world.seen("401@all1")) == len(world.seen("401@all2")) == 1


def test_least_busy_goes_where_nothing_runs(serve, world, eventually):
    target = spread(world, ("slow-stream@busy1", 1), ("slow-stream@busy2", 1), balance="least-busy")
    served = serve(targets=[target])
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(served.ask(stream=True))) for _ in range(2)
    ]
    for at, thread in enumerate(threads):
        thread.start()
        eventually(lambda at=at: served.gateway.places.running == at + 1)
        eventually(lambda at=at: sum(d.in_flight for d in served.gateway.deployments) == at + 1)
    assert [d.in_flight for d in served.gateway.deployments] == [1, 1]
    for thread in threads:
        thread.join()
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    eventually(lambda: idle(served))


def test_balancing_by_latency_serves_and_measures(serve, world):
    target = spread(world, ("ok@fast1", 1), ("ok@fast2", 1), balance="latency")
    served = serve(targets=[target])
    assert {served.ask().status_code for _ in range(6)} == {200}
    assert all(d.latency.seconds > 0 for d in served.gateway.deployments)


@pytest.mark.parametrize("stream", [False, True])
def test_a_hedge_answers_for_a_call_that_hangs_and_its_cost_is_counted(
    serve, world, eventually, stream
):
    name = f"stumble-hang@hedge{stream}"
    served = serve(targets=[world.target(name, hedge_after=0.2)])
    answer = served.ask(stream=stream)
    assert answer.status_code == 200
    eventually(lambda: world.seen(name)[0]["left"])
    assert len(world.seen(name)) == 2
    outcome = served.decision(answer)["outcome"]
    [attempt] = outcome["attempts"]
    assert (attempt["fault"], attempt["cost_estimated"]) == ("hedged", True)
    answered = (11 * 1.0 + 6 * 2.0) / 1e6
    assert attempt["cost_usd"] > 0
    assert outcome["cost_usd"] == pytest.approx(answered + attempt["cost_usd"])
    assert "wye_upstream_failures_total{" not in served.http.get("/metrics").text
    eventually(lambda: idle(served))
    assert served.gateway.breakers[name].state is State.CLOSED


def test_nothing_is_hedged_unless_asked_for(serve, world):
    served = serve(targets=[world.target("slow-stream@plain")])
    assert served.ask(stream=True).status_code == 200
    assert len(world.seen("slow-stream@plain")) == 1


def test_a_request_whose_money_pays_for_one_call_is_not_hedged(serve, world):
    name = "stumble-hang@budget"
    target = world.target(name, hedge_after=0.1, timeouts={"total": 0.8})
    served = serve(targets=[target], server={"keys": True})
    _, secret = KeyBook(served.gateway.store.engine).add("one", Limits(budget_day=1.0))
    body = {
        "model": name, "max_tokens": 6,
        "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    answer = served.http.post(
        "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 503
    assert "gave no answer within 0.8 s" in answer.json()["error"]["message"]
    assert len(world.seen(name)) == 1


def test_two_calls_that_both_fail_are_both_told(serve, world, eventually):
    target = spread(world, ("hang@both", 1), ("401@both", 1), hedge_after=0.1)
    target["timeouts"] = {"total": 0.5}
    served = serve(targets=[target], retries={"attempts": 0})
    answer = served.ask()
    assert answer.status_code == 503
    faults = [attempt["fault"] for attempt in served.decision(answer)["outcome"]["attempts"]]
    assert sorted(faults) == ["status", "timeout"]
    eventually(lambda: idle(served))


def test_a_full_target_is_no_candidate_and_where_all_are_full_the_client_waits(
    serve, world, eventually
):
    served = serve(
        targets=[
            world.target("first", model="slow-stream@room", quality=0.9, max_in_flight=1),
            world.target("second", model="slow-stream@room", quality=0.5, max_in_flight=1),
        ]
    )
    threads, answers = [], []
    for at in range(2):
        threads.append(threading.Thread(target=lambda: answers.append(served.ask(stream=True))))
        threads[at].start()
        eventually(lambda at=at: sum(d.in_flight for d in served.gateway.deployments) == at + 1)
    refused = served.ask()
    for thread in threads:
        thread.join()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert {answer.headers["x-wye-target"] for answer in answers} == {"first", "second"}
    [second] = [a for a in answers if a.headers["x-wye-target"] == "second"]
    assert "busy" in served.decision(second)["excluded"]["first"]
    assert served.ask().headers["x-wye-target"] == "first"


def test_a_stream_cut_midway_is_held_against_its_deployment_alone(serve, world):
    served = serve(
        targets=[spread(world, ("cut-midway@one", 1), ("ok@one", 1))],
        breaker={"failures": 1, "cooldown": 60},
    )
    first = served.ask(stream=True)
    assert json.loads(first.text.strip().splitlines()[-1].removeprefix("data: "))["error"]
    states = [d.breaker.state for d in served.gateway.deployments]
    assert states == [State.OPEN, State.CLOSED]
    assert served.ask(stream=True).text.endswith("data: [DONE]\n\n")


GOOD = '[[targets]]\nname = "a"\n[[targets.deployments]]\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace('"a"', '"a"\nbase_url = "http://h"'), "base_url stands beside deployments"),
        (GOOD + "wait = 3\n", "unknown key `targets.0.deployments.0.wait`"),
        (GOOD.replace('"a"', '"a"\nbalance = "random"'), "'weighted', 'least-busy' or 'latency'"),
        (GOOD.replace("http://h/v1", "h"), "base_url is 'h'; it must begin with http"),
        (GOOD + "weight = 0\n", "greater than 0"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(text, told):
    assert parse_config(GOOD).targets[0].served_by[0].name == "a #1"
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        parse_config(text)
