"""The endpoint chat model against a real server on this machine, and against llama.cpp's."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from wye.query.chat_models import EndpointChatModel
from wye.query.chat_models.base import ChatModelError

from .chat_server import ChatServer, completion, serving

ASK = [{"role": "user", "content": "say yes"}]


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    with serving() as state:
        yield state


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    running.forget()
    return running


def test_an_answer_comes_with_tokens_and_the_price_of_both_sides(server: ChatServer) -> None:
    model = EndpointChatModel(
        server.base_url, "served", price_in_per_mtok=1e6, price_out_per_mtok=2e6
    )
    made = model.generate(ASK, max_tokens=7, seed=4, stop=["."])
    assert (made.text, made.input_tokens, made.output_tokens) == ("yes", 2, 3)
    assert made.cost_usd == 2 * 1 + 3 * 2
    assert made.log_probabilities is None
    asked = server.asked[0]
    assert asked["max_tokens"] == 7
    assert asked["seed"] == 4
    assert asked["stop"] == ["."]
    assert "logprobs" not in asked


def test_without_prices_the_cost_is_unknown_and_the_limit_can_have_its_other_name(
    server: ChatServer,
) -> None:
    model = EndpointChatModel(server.base_url, "served", limit_field="max_completion_tokens")
    assert math.isnan(model.generate(ASK, max_tokens=9).cost_usd)
    assert server.asked[0]["max_completion_tokens"] == 9
    assert "max_tokens" not in server.asked[0]


def test_log_probabilities_and_the_runner_up_are_read(server: ChatServer) -> None:
    first = {"yes": -0.5, "no": -1.5, "maybe": -3.0}
    server.responses = [JSONResponse(completion("yes", first=first))]
    made = EndpointChatModel(server.base_url, "served", top_logprobs=3).generate(ASK)
    assert made.log_probabilities is not None
    assert made.runner_up is not None
    assert made.log_probabilities.tolist() == [-0.5]
    assert made.runner_up.tolist() == [-1.5]
    assert server.asked[0]["top_logprobs"] == 3


def test_labels_are_scored_by_their_first_token(server: ChatServer) -> None:
    first = {" Simple": math.log(0.5), "Sim": math.log(0.1), "Comp": math.log(0.2)}
    server.responses = [JSONResponse(completion("Simple", first=first))]
    found = EndpointChatModel(server.base_url, "served").label_log_probabilities(
        ASK, ["Simple", "Complex"]
    )
    np.testing.assert_allclose(np.exp(found), [0.75, 0.25])
    assert server.asked[0]["max_tokens"] == 1


def test_a_label_that_is_not_listed_gets_what_the_list_leaves_possible(server: ChatServer) -> None:
    first = {"yes": math.log(0.8), "perhaps": math.log(0.15)}
    server.responses = [JSONResponse(completion("yes", first=first))]
    found = EndpointChatModel(server.base_url, "served").label_log_probabilities(ASK, ["yes", "no"])
    # Neither more than the least listed token (0.15) nor than what is left (0.05).
    np.testing.assert_allclose(np.exp(found), [0.8 / 0.85, 0.05 / 0.85])


@pytest.mark.parametrize(
    ("first", "labels", "message"),
    [
        ({"s": -0.1}, ["simple", "short"], "begin with the same token"),
        ({"Hello": -0.1}, ["yes", "no"], "begins its answer with none"),
        (None, ["yes", "no"], "gave no top_logprobs"),
        ({"yes": -0.1}, ["yes", "yes"], "different, non-empty"),
        ({"yes": -0.1}, [], "different, non-empty"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused(
    server: ChatServer, first: dict[str, float] | None, labels: list[str], message: str
) -> None:
    server.responses = [JSONResponse(completion("x", first=first))]
    with pytest.raises(ChatModelError, match=message):
        EndpointChatModel(server.base_url, "served").label_log_probabilities(ASK, labels)


def test_a_busy_endpoint_is_asked_again(server: ChatServer) -> None:
    busy = PlainTextResponse("busy", 503, headers={"retry-after": "0.01"})
    server.responses = [busy, busy]
    assert EndpointChatModel(server.base_url, "served").generate(ASK).text == "yes"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (JSONResponse({"error": {"message": "no such model"}}, 404), "refused: HTTP 404.*no such"),
        (PlainTextResponse("<html>"), "something else than JSON.*<html>"),
        (JSONResponse({"choices": []}), "no chat completion"),
        (JSONResponse(["yes"]), "no chat completion"),
        (JSONResponse(completion(["yes"])), "no chat completion"),  # type: ignore[arg-type]
        (JSONResponse(completion(None, refusal="I will not.")), "declined.*I will not"),
        (JSONResponse(completion(None, finish="content_filter")), "declined.*content filter"),
        (PlainTextResponse("busy", 500), "failed 1 times.*500: busy"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_why(
    server: ChatServer, response: JSONResponse, message: str
) -> None:
    server.responses = [response]
    with pytest.raises(ChatModelError, match=message):
        EndpointChatModel(server.base_url, "served", retries=0).generate(ASK)


def test_a_slow_endpoint_runs_into_the_time_limit(server: ChatServer) -> None:
    server.delay = 0.5
    with pytest.raises(ChatModelError, match=r"no answer within 0\.05 s"):
        EndpointChatModel(server.base_url, "served", retries=0, timeout=0.05).generate(ASK)


def test_a_dead_endpoint_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    model = EndpointChatModel(f"http://127.0.0.1:{port}/v1", "served", retries=0)
    with pytest.raises(ChatModelError, match=rf"127.0.0.1:{port}.*failed 1 times.*ConnectError"):
        model.generate(ASK)


@pytest.mark.parametrize("url", ["http://", "http://[::1/v1", "https:///v1"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ChatModelError, match="base_url is"):
        EndpointChatModel(url, "m")


def test_an_endpoint_that_asks_for_hours_is_not_waited_for(server: ChatServer) -> None:
    busy = PlainTextResponse("later", 429, headers={"retry-after": "7200"})
    server.responses[:] = [busy]
    with pytest.raises(ChatModelError, match="asks to be left alone for 7200 s: HTTP 429: later"):
        EndpointChatModel(server.base_url, "m").generate(ASK)
    assert len(server.asked) == 1


def test_the_key_comes_from_the_variable_that_was_named(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EndpointChatModel(server.base_url, "served", "WYE_TEST_KEY")
    monkeypatch.delenv("WYE_TEST_KEY", raising=False)
    with pytest.raises(ChatModelError, match="WYE_TEST_KEY is not set"):
        model.generate(ASK)
    monkeypatch.setenv("WYE_TEST_KEY", "secret")
    model.generate(ASK)
    assert server.keys == ["Bearer secret"]
    assert "secret" not in repr(vars(model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role of"),
        ({"messages": [{"role": "user", "content": None}]}, "string as content"),
        ({"messages": ASK, "max_tokens": 0}, "max_tokens is 0"),
        ({"messages": ASK, "temperature": float("nan")}, "temperature is nan"),
        ({"messages": ASK, "top_p": 0.0}, "top_p is 0"),
    ],
)
def test_a_call_out_of_range_is_not_sent(
    server: ChatServer, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ChatModelError, match=message):
        EndpointChatModel(server.base_url, "served").generate(**arguments)  # type: ignore[arg-type]
    assert not server.asked


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"base_url": "127.0.0.1:80"}, "base_url"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"limit_field": "n_predict"}, "limit_field"),
        ({"timeout": 0.0}, "timeout"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ChatModelError, match=message):
        EndpointChatModel(**{"base_url": "http://x/v1", "model": "m", **parameters})  # type: ignore[arg-type]


@pytest.mark.local
def test_the_embedded_model_answers_and_scores_labels() -> None:
    from wye.gateway.pool.model import EmbeddedModel

    ask = [{"role": "user", "content": "Is the sky blue? Answer Yes or No."}]
    with EmbeddedModel(slots=1, context=512) as served:
        model = EndpointChatModel(f"{served.base_url}/v1", "any", top_logprobs=5)
        made = model.generate(ask, max_tokens=8)
        found = model.label_log_probabilities(ask, ["Yes", "No"])
    assert made.log_probabilities is not None
    assert made.runner_up is not None
    assert len(made.log_probabilities) == len(made.runner_up)
    assert len(made.runner_up) <= made.output_tokens
    # Greedy: nothing was more probable than what was chosen.
    assert (made.log_probabilities >= made.runner_up).all()
    assert math.isclose(float(np.exp(found).sum()), 1.0)
