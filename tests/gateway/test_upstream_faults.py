"""What a client sees, and what is remembered, when an upstream misbehaves in every way we know."""

from __future__ import annotations

import json
import socket

import httpx
import openai
import pytest

from wye.gateway.breaker import State

FAULTS = {
    "500": "status",
    "401": "status",
    "429": "rate_limit",
    "reset": "reset",
    "garbage": "garbage",
    "no-choices": "garbage",
    "hang": "timeout",
    "context": "context",
}
RETRIED = {"500", "reset"}
IMPATIENT = {"connect": 0.5, "first_byte": 0.4, "total": 0.8}
LIMITS = {"connect": 30, "first_byte": 30, "total": 30, "between": 30}


def two(world, broken, **values):
    """A target in trouble that the policy prefers, and a sound one."""
    return [
        world.target("broken", model=broken, quality=0.9, timeouts=IMPATIENT, **values),
        world.target("sound", model="ok@sound", quality=0.5),
    ]


def data(response):
    """The JSON payloads of a stream, without [DONE]."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_best_target_answers_at_once(serve, world, fault, stream):
    served = serve(targets=two(world, fault))
    answer = served.ask(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-wye-target"] == "sound"
    decision = served.decision(answer)
    assert decision["target"] == "broken"
    assert decision["outcome"]["target"] == "sound"
    attempts = decision["outcome"]["attempts"]
    assert len(attempts) == (2 if fault in RETRIED else 1)
    for attempt in attempts:
        assert (attempt["target"], attempt["fault"]) == ("broken", FAULTS[fault])
    assert any("Asked in vain: broken" in line for line in decision["explanation"])


@pytest.mark.parametrize(
    ("model", "stream", "limit", "told"),
    [
        ("hang", True, "first_byte", "sent no first byte within 0.3 s"),
        ("hang", True, "total", "did not finish within 0.3 s"),
        ("hang", False, "total", "gave no answer within 0.3 s"),
        ("hang-in-body", False, "between", "fell silent: nothing more came within 0.3 s"),
    ],
)
def test_each_limit_of_time_is_told_apart(serve, world, model, stream, limit, told):
    served = serve(targets=[world.target(model, timeouts={**LIMITS, limit: 0.3})])
    answer = served.ask(stream=stream)
    assert answer.status_code == 503
    assert told in answer.json()["error"]["message"]
    [attempt] = served.decision(answer)["outcome"]["attempts"]
    assert attempt["fault"] == "timeout"


def test_silence_between_the_pieces_of_a_stream_ends_it_in_an_error(serve, world, eventually):
    served = serve(
        targets=[world.target("hang-midway@silence", timeouts={**LIMITS, "between": 0.3})]
    )
    answer = served.ask(stream=True)
    *pieces, last = data(answer)
    assert len(pieces) == 4
    assert "fell silent: nothing more came within 0.3 s" in last["error"]["message"]
    assert "[DONE]" not in answer.text
    eventually(lambda: world.seen("hang-midway@silence")[0]["left"])


def test_a_connection_that_is_never_accepted_is_told_apart(serve, world):
    # A full backlog of a socket that never accepts leaves the next connection without an answer.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(address)
        served = serve(
            targets=[
                world.target(
                    "deaf",
                    base_url=f"http://127.0.0.1:{address[1]}/v1",
                    timeouts={**LIMITS, "connect": 0.3},
                )
            ]
        )
        assert "could not be reached within 0.3 s" in served.ask().json()["error"]["message"]
        for other in waiting:
            other.close()


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_floods_is_cut_off(serve, world, eventually, stream):
    name = f"flood@{stream}"
    served = serve(targets=[world.target(name)])
    answer = served.ask(stream=stream)
    assert answer.status_code == 503
    assert "floods: " in answer.json()["error"]["message"]
    eventually(lambda: world.seen(name)[0]["left"])


def test_a_port_where_nobody_listens_is_passed_over(serve, world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    targets = two(world, "ok")
    targets[0]["base_url"] = base_url
    answer = serve(targets=targets).ask()
    assert answer.headers["x-wye-target"] == "sound"


@pytest.mark.parametrize("stream", [False, True])
def test_when_none_is_left_the_client_gets_503_that_says_why_of_each(serve, world, stream):
    served = serve(
        targets=[world.target("first", model="500"), world.target("second", model="reset")]
    )
    answer = served.ask(stream=stream)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert error["code"] == "no_target_left"
    assert "first answered 500" in error["message"]
    assert "second broke the connection" in error["message"]
    assert int(answer.headers["retry-after"]) >= 1
    outcome = served.decision(answer)["outcome"]
    assert (outcome["status"], outcome["http_status"]) == ("error", 503)
    with pytest.raises(openai.InternalServerError, match="no target is left"):
        served.openai.chat.completions.create(
            model="wye", messages=[{"role": "user", "content": "hi"}]
        )


def test_a_target_asked_for_by_name_has_no_stand_in(serve, world):
    served = serve(targets=two(world, "500"))
    asked = len(world.seen("ok@sound"))
    assert served.ask("broken").status_code == 503
    assert len(world.seen("ok@sound")) == asked


@pytest.mark.parametrize("model", ["cut-midway", "reset-midway", "garbage-stream", "hang-midway"])
def test_a_stream_that_breaks_off_ends_in_an_error_and_not_in_another_answer(serve, world, model):
    served = serve(targets=two(world, model))
    answer = served.ask(stream=True)
    assert answer.headers["x-wye-target"] == "broken"
    *pieces, last = data(answer)
    said = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
    assert said == "The answer is"
    assert last["error"]["code"] == "upstream_broke_off"
    assert "data: [DONE]" not in answer.text
    outcome = served.decision(answer)["outcome"]
    assert outcome["status"] == "error"
    assert outcome["target"] == "broken"
    assert outcome["tokens_estimated"] is True


def test_the_official_client_raises_when_a_stream_breaks_off(serve, world):
    served = serve(targets=[world.target("cut-midway")])
    stream = served.openai.chat.completions.create(
        model="wye", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="cut its stream short"):
        list(stream)


def test_a_request_that_the_upstream_calls_wrong_is_not_tried_elsewhere(serve, world):
    served = serve(targets=two(world, "400"))
    before = len(world.seen("ok@sound"))
    answer = served.ask()
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "top_k is unknown",
        "type": "invalid_request_error",
        "param": "top_k",
        "code": "unknown_parameter",
    }
    assert len(world.seen("ok@sound")) == before
    assert served.gateway.breakers["broken"].state is State.CLOSED


def test_a_request_too_long_for_every_target_is_the_clients_fault(serve, world):
    served = serve(targets=[world.target("context")])
    answer = served.ask()
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_target_fits"


def test_repeated_failures_open_the_circuit_and_the_target_is_no_candidate(serve, world):
    served = serve(targets=two(world, "500@circuit"), breaker={"failures": 2, "cooldown": 60})
    served.ask()
    served.ask()
    asked = len(world.seen("500@circuit"))
    answer = served.ask()
    assert asked == 2
    assert len(world.seen("500@circuit")) == asked
    decision = served.decision(answer)
    assert decision["target"] == "sound"
    assert "left alone" in decision["excluded"]["broken"]
    assert any("broken was left out" in reason for reason in decision["reasons"])
    health = served.http.get("/healthz").json()
    assert health["targets"] == {"broken": "open", "sound": "closed"}
    assert 'wye_circuit_open{target="broken"} 1.0' in served.http.get("/metrics").text


def test_a_mended_target_comes_back_after_one_good_probe(serve, world, eventually):
    served = serve(targets=two(world, "flaky"), breaker={"failures": 1, "cooldown": 0.2})
    assert served.ask().headers["x-wye-target"] == "sound"
    assert served.gateway.breakers["broken"].state is State.OPEN
    world.mend()
    eventually(lambda: served.gateway.breakers["broken"].state is State.HALF_OPEN)
    assert served.ask().headers["x-wye-target"] == "broken"
    assert served.gateway.breakers["broken"].state is State.CLOSED


def test_health_is_503_when_every_circuit_is_open(serve, world):
    served = serve(
        targets=[world.target("only", model="500")], breaker={"failures": 1, "cooldown": 60}
    )
    served.ask()
    health = served.http.get("/healthz")
    assert health.status_code == 503
    assert health.json()["status"] == "unavailable"
    again = served.ask()
    assert again.status_code == 503
    assert int(again.headers["retry-after"]) > 50


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model", ["stumble-500", "stumble-reset", "stumble-seconds", "stumble-date"]
)
def test_a_target_that_stumbles_once_is_asked_again(serve, world, model, stream):
    name = f"{model}@{stream}"
    targets = two(world, name)
    targets[0]["timeouts"] = LIMITS
    served = serve(targets=targets, retries={"base": 0.05, "cap": 3})
    answer = served.ask(stream=stream)
    assert answer.headers["x-wye-target"] == "broken"
    outcome = served.decision(answer)["outcome"]
    assert outcome["status"] == "ok"
    assert len(outcome["attempts"]) == 1
    first, second = (note["time"] for note in world.seen(name))
    # A date is cut to whole seconds, so up to one of the two asked for is gone already.
    least = {"stumble-seconds": 1.0, "stumble-date": 1.0}.get(model, 0.0)
    assert second - first >= least
    assert served.gateway.lanes["broken"].deployments[0].in_flight == 0


def test_no_retry_when_it_is_turned_off(serve, world):
    served = serve(targets=two(world, "500@once"), retries={"attempts": 0})
    served.ask()
    assert len(world.seen("500@once")) == 1


def test_retries_of_a_target_that_is_down_are_bounded_by_their_budget(serve, world):
    served = serve(
        targets=[world.target("500@budget")],
        retries={"attempts": 3, "base": 0.001, "share": 0.25, "reserve": 2},
        breaker={"failures": 1000},
    )
    for _ in range(12):
        assert served.ask().status_code == 503
    # The reserve at the start, then one for every fourth request.
    assert len(world.seen("500@budget")) == 12 + 2 + 2


def test_a_target_that_asks_to_be_left_alone_is(serve, world):
    served = serve(targets=two(world, "429"))
    served.ask()
    assert 6 < served.gateway.breakers["broken"].retry_after <= 7


def test_nothing_is_left_behind_by_any_fault(serve, world, eventually):
    broken = [*FAULTS, "hang-midway", "reset-midway", "cut-midway", "stumble-hang", "hang-in-body"]
    served = serve(
        targets=[
            world.target(name, model=f"{name}@leak", timeouts=IMPATIENT, hedge_after=0.2)
            for name in broken
        ],
        breaker={"failures": 1000},
        retries={"base": 0.01, "attempts": 2},
    )
    served.ask("500")
    served.http.close()
    served.http = httpx.Client(base_url=served.url, timeout=30, verify=False)
    eventually(lambda: not any("run_asgi" in task for task in served.tasks()))
    before = served.tasks()
    for name in broken:
        for stream in (False, True):
            assert served.ask(name, stream=stream).status_code in (200, 400, 503)
    eventually(lambda: served.tasks() == before)
    for deployment in served.gateway.deployments:
        assert deployment.in_flight == 0
        assert not deployment.upstream._connections._session.connector._acquired, deployment.name
    assert served.gateway.places.running == 0
    assert not served.gateway.dispatcher._live


def test_the_key_goes_to_the_upstream_and_nowhere_else(serve, world, monkeypatch):
    monkeypatch.setenv("OUTSIDE_KEY", "sk-very-secret")
    served = serve(targets=[world.target("500@key", api_key_env="OUTSIDE_KEY")])
    answer = served.ask(echo_key="sk-very-secret")
    assert world.seen("500@key")[-1]["authorization"] == "Bearer sk-very-secret"
    everything = (
        answer.text
        + json.dumps(served.decision(answer))
        + served.http.get("/metrics").text
        + served.http.get("/api/summary").text
    )
    assert "[key]" in answer.text
    assert "sk-very-secret" not in everything


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_in_an_error_within_an_answer_goes_nowhere_either(serve, world, monkeypatch, stream):
    monkeypatch.setenv("OUTSIDE_KEY", "sk-very-secret")
    said = {"message": "sk-very-secret is out of money", "type": "sk-very-secret", "param": 1}
    piece = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    world.script("tells-stream", events=[piece, {"error": said}])
    world.script("tells", status=400, body={"error": said})
    name = "tells-stream" if stream else "tells"
    served = serve(targets=[world.target(name, api_key_env="OUTSIDE_KEY")])
    answer = served.ask(stream=stream)
    assert "[key] is out of money" in answer.text
    assert "sk-very-secret" not in answer.text + json.dumps(served.decision(answer))


@pytest.mark.parametrize("stream", [False, True])
def test_white_space_around_a_key_is_not_sent(serve, world, monkeypatch, stream):
    monkeypatch.setenv("OUTSIDE_KEY", "sk-of-a-file\n")
    served = serve(targets=[world.target("ok@file", api_key_env="OUTSIDE_KEY")])
    assert served.ask(stream=stream).status_code == 200
    assert world.seen("ok@file")[-1]["authorization"] == "Bearer sk-of-a-file"


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_no_header_can_hold_is_passed_over_and_said(serve, world, monkeypatch, stream):
    monkeypatch.setenv("OUTSIDE_KEY", "sk-one\nsk-two")
    broken = world.target("broken", model="ok", quality=0.9, api_key_env="OUTSIDE_KEY")
    served = serve(targets=[broken, world.target("ok", quality=0.5)])
    answer = served.ask(stream=stream)
    assert (answer.status_code, answer.headers["x-wye-target"]) == (200, "ok")
    named = served.ask("broken", stream=stream)
    assert named.status_code == 503
    assert "OUTSIDE_KEY has line breaks" in named.text
    assert "sk-one" not in named.text


@pytest.mark.parametrize("stream", [False, pytest.param(True, id="stream")])
def test_a_number_that_is_no_json_is_garbage(serve, world, stream):
    huge = '{"choices": [{"index": 0, "message": {}, "delta": {}, "logprobs": 1e400}]}'
    world.script("huge-stream", events=[huge, "[DONE]"])
    world.script("huge", raw=huge)
    name = "huge-stream" if stream else "huge"
    served = serve(targets=[world.target(name)])
    answer = served.ask(stream=stream)
    assert answer.status_code == 503
    assert "not JSON" in answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"object": "error", "message": "top_j is unknown", "type": "BadRequestError"}, "top_j"),
        ({"error": "top_j is unknown"}, "top_j is unknown"),
        ({"detail": "top_j is unknown"}, "top_j is unknown"),
        ({"detail": [{"loc": ["body"]}]}, "answered 400"),
        (["top_j"], "answered 400"),
    ],
)
def test_a_refusal_is_passed_on_however_it_is_said(serve, world, body, said):
    world.script("says-otherwise", status=400, body=body)
    served = serve(targets=[world.target("says-otherwise")])
    answer = served.ask()
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "This model's maximum context length is 8 tokens."},
        {"error": {"code": 400, "message": "the request exceeds the available context size"}},
    ],
)
def test_a_context_that_is_full_is_known_by_words_too(serve, world, body):
    world.script("full", status=400, body=body)
    served = serve(targets=[world.target("full", quality=0.9), world.target("ok", quality=0.5)])
    answer = served.ask()
    assert (answer.status_code, answer.headers["x-wye-target"]) == (200, "ok")


def test_a_missing_key_is_said_by_its_variable(serve, world, monkeypatch):
    monkeypatch.delenv("OUTSIDE_KEY", raising=False)
    served = serve(targets=[world.target("ok", api_key_env="OUTSIDE_KEY")])
    assert "OUTSIDE_KEY is not set" in served.ask().json()["error"]["message"]
