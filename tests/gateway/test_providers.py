"""Providers through any-llm, with the providers' own clients, before a real server."""

from __future__ import annotations

import json
import socket

import anthropic
import pytest

from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.upstream import build_upstreams

ASK = [{"role": "user", "content": "What is 6 x 7?"}]
PROVIDERS = ["mistral", "deepseek", "anthropic"]


def said(content, finish="stop", **message):
    usage = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
    head = {"id": "c7", "object": "chat.completion", "created": 5, "model": "m"}
    turn = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": turn, "finish_reason": finish}
    return {**head, "choices": [choice], "usage": usage}


def chunks(*deltas, finish="stop"):
    head = {"id": "c7", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    for delta in deltas:
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    last = {"index": 0, "delta": {"content": ""}, "finish_reason": finish}
    usage = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
    yield {**head, "choices": [last], "usage": usage}
    yield "[DONE]"


def message(text):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 30, "output_tokens": 9},
    }  # fmt: skip


def events(*words, whole=True):
    yield {"type": "message_start", "message": {**message(""), "content": [], "stop_reason": None}}
    block = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for word in words:
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    if whole:
        yield {"type": "content_block_stop", "index": 0}
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}
        yield {"type": "message_stop"}


@pytest.fixture(scope="module")
def shared(share, world):
    """One gateway for the whole module."""
    root = world.base_url.removesuffix("/v1")
    times = {"first_byte": 2, "between": 1, "total": 3}
    rest = {"kind": "provider", "api_key_env": "PROVIDER_KEY", "timeouts": times}
    rest |= {"tags": ["tools"], "quality": 0.5}
    return share(
        {"PROVIDER_KEY": "sk-provider-secret"},
        targets=[
            world.target("mistral", provider="mistral", **{**rest, "base_url": root}),
            world.target("deepseek", provider="deepseek", **{**rest, "base_url": world.base_url}),
            world.target("anthropic", provider="anthropic", **{**rest, "base_url": root}),
        ],
        breaker={"failures": 1000},
        retries={"attempts": 0},
    )


def script(world, provider, text, **rest):
    world.script(provider, body=message(text) if provider == "anthropic" else said(text), **rest)


def script_stream(world, provider, *words, whole=True):
    if provider == "anthropic":
        world.script(provider, events=list(events(*words, whole=whole)))
    else:
        pieces = list(chunks(*({"role": "assistant", "content": word} for word in words)))
        world.script(provider, events=pieces if whole else pieces[: len(words)])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_answers_chat(served, world, provider):
    script(world, provider, "Forty-two.")
    answer = served.ask(provider, temperature=0.5, max_tokens=9, user="u7")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == "Forty-two."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 30
    note = world.seen(provider)[-1]
    assert note["body"]["temperature"] == 0.5
    key = note["headers"].get("x-api-key") or note["headers"]["authorization"]
    assert key.removeprefix("Bearer ") == "sk-provider-secret"
    decision = served.decision(answer)
    assert decision["features"]["translated"][provider].endswith("left out: user")
    assert decision["outcome"]["output_tokens"] == 9


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_streams_chat(served, world, provider):
    script_stream(world, provider, "Forty", "-two.")
    stream = served.openai.chat.completions.create(
        model=provider, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == "Forty-two."
    assert [p.usage.completion_tokens for p in pieces if p.usage][-1] == 9
    found = served.http.get(f"/v1/decisions/{stream.response.headers['x-wye-decision']}").json()
    assert (found["outcome"]["status"], found["outcome"]["tokens_estimated"]) == ("ok", False)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_answers_messages(served, world, provider):
    script(world, provider, "Forty-two.")
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        answer = client.messages.create(model=provider, max_tokens=9, messages=ASK)
        assert (answer.content[0].text, answer.stop_reason) == ("Forty-two.", "end_turn")
        script_stream(world, provider, "Forty", "-two.")
        with client.messages.stream(model=provider, max_tokens=9, messages=ASK) as stream:
            assert "".join(stream.text_stream) == "Forty-two."
            assert stream.get_final_message().usage.output_tokens == 9


@pytest.mark.parametrize("provider", PROVIDERS)
def test_calls_of_tools_go_to_a_provider_and_back(served, world, provider):
    call = {"id": "c12345678", "type": "function"}
    call["function"] = {"name": "look", "arguments": '{"at": "sky"}'}
    if provider == "anthropic":
        use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sky"}}
        answer = {**message(""), "content": [use], "stop_reason": "tool_use"}
        world.script(provider, body=answer)
    else:
        world.script(provider, body=said("", "tool_calls", tool_calls=[call]))
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    history = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c12345678", "content": "blue"},
    ]
    answer = served.openai.chat.completions.create(model=provider, messages=history, tools=[tool])
    made = answer.choices[0].message.tool_calls[0]
    assert (made.function.name, json.loads(made.function.arguments)) == ("look", {"at": "sky"})
    assert answer.choices[0].finish_reason == "tool_calls"
    sent = json.dumps(world.seen(provider)[-1]["body"])
    assert "blue" in sent
    assert "c12345678" in sent


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "words", "headers", "expected", "fault", "wait"),
    [
        (429, "slow down", {"retry-after": "7"}, 503, "rate_limit", 7.0),
        (500, "trouble", {}, 503, "status", None),
        (503, "busy", {"retry-after": "3"}, 503, "status", None),
        (401, "wrong key sk-provider-secret", {}, 503, "status", None),
        (404, "no such model", {}, 503, "status", None),
        (400, "context length exceeded: maximum context length is 8", {}, 400, "context", None),
        (422, "top is unknown", {}, 422, "request", None),
    ],
)
def test_errors_of_a_provider_are_what_they_are(
    served, world, provider, status, words, headers, expected, fault, wait
):
    error = {"error": {"message": words, "type": "some_error"}}
    world.script(provider, status=status, body=error, headers=headers)
    answer = served.ask(provider)
    assert answer.status_code == expected, answer.text
    assert words.replace("sk-provider-secret", "[key]") in answer.json()["error"]["message"]
    attempts = served.decision(answer)["outcome"]["attempts"]
    assert [attempt["fault"] for attempt in attempts] == [fault]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_that_hangs_is_left_in_time(served, world, provider):
    world.script(provider, events=["hang"])
    answer = served.ask(provider, stream=True)
    assert answer.status_code == 503
    assert "sent no first byte within 2 s" in answer.json()["error"]["message"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_of_a_provider_that_is_cut_ends_in_an_error(served, world, provider):
    script_stream(world, provider, "Forty", "-two.", whole=False)
    answer = served.ask(provider, stream=True)
    assert answer.status_code == 200
    assert '"error"' in answer.text
    assert "[DONE]" not in answer.text
    last = served.http.get("/v1/decisions").json()["data"][0]
    found = served.http.get(f"/v1/decisions/{last['id']}").json()
    assert found["outcome"]["status"] == "error"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_is_none_counts_against_the_provider(served, world, provider):
    for body in ({"hello": "world"}, {"choices": [{"index": "x"}]}, []):
        world.script(provider, body=body)
        answer = served.ask(provider)
        assert answer.status_code == 503, answer.text
        attempts = served.decision(answer)["outcome"]["attempts"]
        assert [attempt["fault"] for attempt in attempts] == ["garbage"], answer.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_connection_that_breaks_counts_against_the_provider(served, world, provider):
    world.script(provider, events=["reset"])
    answer = served.ask(provider, stream=True)
    assert answer.status_code == 503, answer.text
    attempts = served.decision(answer)["outcome"]["attempts"]
    assert [attempt["fault"] for attempt in attempts] == ["reset"], answer.text


def test_a_provider_that_nobody_listens_for_cannot_be_reached(serve, world, monkeypatch):
    monkeypatch.setenv("PROVIDER_KEY", "k")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        rest = {"kind": "provider", "provider": "deepseek", "api_key_env": "PROVIDER_KEY"}
        served = serve(
            targets=[world.target("d", **{**rest, "base_url": url})], retries={"attempts": 0}
        )
        answer = served.ask("d")
    assert answer.status_code == 503
    assert "d cannot be reached" in answer.json()["error"]["message"]
    assert served.decision(answer)["outcome"]["attempts"][0]["fault"] == "connect"


def test_a_key_that_is_not_set_is_said_and_nothing_is_sent(served, world, monkeypatch):
    monkeypatch.delenv("PROVIDER_KEY")
    before = len(world.seen("mistral"))
    answer = served.ask("mistral")
    assert "PROVIDER_KEY is not set in the environment" in answer.json()["error"]["message"]
    assert len(world.seen("mistral")) == before


def test_a_key_in_the_provider_s_own_variable_is_sent_to_no_other_address(
    serve, world, monkeypatch
):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-own-secret")
    script(world, "d", "so")
    served = serve(
        targets=[world.target("d", kind="provider", provider="deepseek", model="d")],
    )
    assert served.ask("d").status_code == 200
    assert "sk-own-secret" not in json.dumps(world.seen("d")[-1]["headers"])


def test_a_field_that_the_library_does_not_know_stands_in_the_way(served):
    answer = served.ask("mistral", top_k=5)
    assert answer.status_code == 400
    assert "the translation from chat to the format of mistral cannot carry top_k" in answer.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", 'provider belongs to kind = "provider"'),
        ('provider = "nobody"', "provider is 'nobody'; any-llm knows"),
        ('provider = "groq"', r"needs its own client: pip install any-llm-sdk\[groq\]"),
    ],
)
def test_a_provider_that_is_not_there_is_said_at_the_start(line, message):
    if "groq" in line:
        pytest.importorskip("any_llm")
        import importlib.util

        if importlib.util.find_spec("groq") is not None:
            pytest.skip("the client of groq is installed")
    with pytest.raises(ConfigError, match=message):
        build_upstreams(
            parse_config(f'[[targets]]\nname = "a"\nkind = "provider"\n{line}\n').targets
        )
