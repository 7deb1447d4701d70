"""Messages answered by chat targets and chat by Anthropic's, by real clients over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys

import anthropic
import openai
import pytest

from wye.gateway.config import ConfigError, Target
from wye.gateway.config_file import parse_config
from wye.gateway.telemetry.trace import OUTGOING
from wye.gateway.upstream import build_upstreams

ASK = [{"role": "user", "content": "What is 6 x 7?"}]
PIXEL = "iVBORw0KGgo="


@pytest.fixture(scope="module")
def shared(share, world):
    """One gateway for the whole module."""
    root = world.base_url.removesuffix("/v1")
    claude = {"kind": "anthropic", "base_url": root, "api_key_env": "CLAUDE_KEY"}
    rest = {
        "tags": ["tools", "vision"],
        "translate": True,
        "timeouts": {"first_byte": 2, "between": 1},
    }
    return share(
        {"CLAUDE_KEY": "sk-ant-secret", "GPT_KEY": "sk-gpt-secret"},
        targets=[
            world.target("gpt", model="gpt@t", quality=0.9, api_key_env="GPT_KEY", **rest),
            world.target("claude", model="claude@t", quality=0.8, **claude, **rest),
            world.target("plain", model="ok@plain", quality=0.1),
        ],
        breaker={"failures": 1000},
    )


@pytest.fixture
def claude(served):
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        yield client


def chat_answer(message, finish="stop", **fields):
    usage = {
        "prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 10},
    }  # fmt: skip
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    head = {"id": "chatcmpl-7", "object": "chat.completion", "created": 5, "model": "gpt@t"}
    return {**head, "choices": [choice], "usage": usage, **fields}


def chat_chunks(*deltas, finish="stop"):
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "gpt@t"}
    for delta in deltas:
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    usage = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
    yield {**head, "choices": [], "usage": usage}
    yield "[DONE]"


def message_answer(content, reason="end_turn"):
    usage = {"input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 5}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude@t"}
    return {
        **head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def message_events(*blocks, reason="end_turn"):
    """Of blocks, each a start and its deltas."""
    yield {"type": "message_start", "message": {**message_answer([]), "stop_reason": None}}
    for index, (start, *deltas) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def outcome_of(served, raw):
    return served.http.get(f"/v1/decisions/{raw.headers['x-wye-decision']}").json()


TOOLS = [{"name": "look", "description": "looks", "input_schema": {"type": "object"}}]
AGENT = {
    "model": "gpt",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "tools": TOOLS,
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in it?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sky"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "blue", "is_error": True}
            ],
        },
    ],
}


def test_a_messages_client_is_answered_by_a_chat_target_with_tools_and_pictures(
    served, claude, world
):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    answer = chat_answer({"content": "Again.", "tool_calls": [call]}, "tool_calls")
    world.script("gpt@t", body=answer)
    raw = claude.messages.with_raw_response.create(**AGENT)
    message = raw.parse()
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].model_dump(include={"id", "name", "input"}) == {
        "id": "c1", "name": "look", "input": {"at": 1},
    }  # fmt: skip
    assert (message.stop_reason, message.model) == ("tool_use", "gpt@t")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (20, 10)
    note = world.seen("gpt@t")[-1]
    assert note["path"] == "/v1/chat/completions"
    assert note["headers"]["authorization"] == "Bearer sk-gpt-secret"
    sent = note["body"]
    assert (sent["temperature"], sent["stop"], sent["max_tokens"]) == (0.5, ["END"], 50)
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert sent["tools"][0]["function"]["parameters"] == {"type": "object"}
    system, user, assistant, tool = sent["messages"]
    assert system == {"role": "system", "content": "be brief"}
    assert user["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert assistant["tool_calls"][0]["function"]["arguments"] == '{"at": "sky"}'
    assert assistant["content"] == "I look."
    assert tool == {"role": "tool", "tool_call_id": "t1", "content": "Error: blue"}
    decision = outcome_of(served, raw)
    assert "left out: thinking of earlier turns, cache_control" in decision["reasons"][-1]
    assert set(decision["features"]["translated"]) == {"gpt"}
    assert (decision["outcome"]["input_tokens"], decision["outcome"]["output_tokens"]) == (30, 9)


@pytest.mark.parametrize("arguments", ['{"at": ', "[1]", "sky"])
def test_a_call_whose_arguments_have_no_place_in_a_message_is_no_answer(served, world, arguments):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    world.script("gpt@t", body=chat_answer({"content": None, "tool_calls": [call]}, "tool_calls"))
    world.script("claude@t", body=message_answer([{"type": "text", "text": "so"}]))
    answer = served.http.post("/v1/messages", json={**AGENT, "model": "wye"})
    assert answer.headers["x-wye-target"] == "claude"
    attempts = served.decision(answer)["outcome"]["attempts"]
    assert {attempt["fault"] for attempt in attempts} == {"garbage"}
    assert "arguments that are no JSON object" in attempts[0]["error"]


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": ["x"]}}]},
        {"choices": [{"index": 0}]},
        {"choices": [{}], "id": 7},
        {"choices": [{"index": 0, "message": "so", "finish_reason": "stop"}]},
    ],
)
def test_a_chat_answer_that_cannot_be_read_is_no_message(served, world, broken):
    world.script("gpt@t", body={**chat_answer({"content": "so"}), **broken})
    answer = served.http.post("/v1/messages", json={**AGENT, "model": "gpt"})
    assert answer.status_code == 503, answer.text
    attempts = served.decision(answer)["outcome"]["attempts"]
    assert {attempt["fault"] for attempt in attempts} == {"garbage"}


def test_a_messages_client_streams_from_a_chat_target(served, claude, world):
    parts = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look"}}]
    more = [{"index": 0, "function": {"arguments": '{"at": "s'}}]
    last = [{"index": 0, "function": {"arguments": 'ky"}'}}]
    deltas = [
        {"role": "assistant", "content": ""}, {"content": "I"}, {"content": " look."},
        {"tool_calls": parts}, {"tool_calls": more}, {"tool_calls": last},
    ]  # fmt: skip
    world.script("gpt@t", events=list(chat_chunks(*deltas, finish="tool_calls")))
    kinds = []
    with claude.messages.stream(model="wye", max_tokens=9, messages=ASK, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
        raw = stream.response
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert final.content[0].text == "I look."
    assert final.content[1].input == {"at": "sky"}
    assert (final.stop_reason, final.usage.input_tokens) == ("tool_use", 30)
    decision = outcome_of(served, raw)
    assert decision["target"] == "gpt"
    outcome = decision["outcome"]
    assert (outcome["status"], outcome["input_tokens"], outcome["output_tokens"]) == ("ok", 30, 9)
    assert not outcome["tokens_estimated"]


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")],
)
def test_why_a_chat_answer_ended_is_told_in_messages(claude, world, finish, stop):
    world.script("gpt@t", body=chat_answer({"content": "so"}, finish))
    answer = claude.messages.create(model="gpt", max_tokens=9, messages=ASK)
    assert answer.stop_reason == stop
    world.script("gpt@t", events=list(chat_chunks({"content": "so"}, finish=finish)))
    with claude.messages.stream(model="gpt", max_tokens=9, messages=ASK) as stream:
        assert stream.get_final_message().stop_reason == stop


def test_structured_output_and_effort_are_asked_of_a_chat_target(served, world):
    world.script("gpt@t", body=chat_answer({"content": "{}"}))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    body = {"model": "gpt", "max_tokens": 9, "messages": ASK, "output_config": config}
    assert served.http.post("/v1/messages", json=body).status_code == 200
    sent = world.seen("gpt@t")[-1]["body"]
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert sent["reasoning_effort"] == "low"


def test_a_chat_client_is_answered_by_anthropic_with_tools_and_pictures(served, world):
    content = [
        {"type": "thinking", "thinking": "well", "signature": "sig"},
        {"type": "text", "text": "Again."},
        {"type": "tool_use", "id": "t2", "name": "look", "input": {"at": 1}},
    ]
    world.script("claude@t", body=message_answer(content, "tool_use"))
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": 0}'}}
    function = {"name": "look", "description": "looks", "parameters": {"type": "object"}}
    raw = served.openai.chat.completions.with_raw_response.create(
        model="claude",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "What is in it?"}, image]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "blue"},
        ],
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
        stop="END",
        user="u7",
        max_completion_tokens=50,
    )
    answer = raw.parse()
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == ("Again.", "tool_calls")
    assert json.loads(message.tool_calls[0].function.arguments) == {"at": 1}
    assert answer.usage.prompt_tokens == 107
    assert answer.usage.prompt_tokens_details.cached_tokens == 100
    note = world.seen("claude@t")[-1]
    assert note["path"] == "/v1/messages"
    assert note["headers"]["x-api-key"] == "sk-ant-secret"
    sent = note["body"]
    assert (sent["system"], sent["stop_sequences"]) == ("be brief", ["END"])
    assert (sent["max_tokens"], sent["tool_choice"]["type"]) == (50, "any")
    user, assistant, result = sent["messages"]
    assert user["content"][1]["source"]["data"] == PIXEL
    assert assistant["content"][0]["input"] == {"at": 0}
    assert result["content"][0] == {
        "type": "tool_result", "tool_use_id": "t1", "content": "blue",
    }  # fmt: skip
    decision = outcome_of(served, raw)
    assert decision["features"]["translated"]["claude"].endswith("left out: user")
    assert decision["outcome"]["cached_input_tokens"] == 100


def test_a_chat_client_streams_from_anthropic(served, world):
    words = [{"type": "text_delta", "text": word} for word in ("I", " look.")]
    parts = [{"type": "input_json_delta", "partial_json": part} for part in ('{"at": ', '"sky"}')]
    tool = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    blocks = [({"type": "text", "text": ""}, *words), (tool, *parts)]
    world.script("claude@t", events=list(message_events(*blocks, reason="tool_use")))
    answer = served.openai.chat.completions.create(
        model="claude", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(answer)
    assert len({piece.id for piece in pieces}) == 1
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    calls = [c for p in pieces if p.choices for c in p.choices[0].delta.tool_calls or ()]
    assert text == "I look."
    assert {call.index for call in calls} == {0}
    assert (calls[0].id, calls[0].function.name) == ("t1", "look")
    assert json.loads("".join(c.function.arguments for c in calls)) == {"at": "sky"}
    reasons = [p.choices[0].finish_reason for p in pieces if p.choices]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    assert (pieces[-1].usage.prompt_tokens, pieces[-1].usage.completion_tokens) == (107, 5)
    outcome = outcome_of(served, answer.response)["outcome"]
    assert (outcome["status"], outcome["cached_input_tokens"]) == ("ok", 100)


@pytest.mark.parametrize(
    ("target", "events", "client"),
    [
        ("gpt", list(chat_chunks({"content": "a"}, {"content": "b"}))[:2], "anthropic"),
        ("claude", list(message_events(({"type": "text", "text": "a"},)))[:3], "openai"),
    ],
)
def test_a_translated_stream_that_is_cut_ends_in_an_error(
    served, claude, world, target, events, client
):
    world.script(f"{target}@t", events=events)
    create = served.openai.chat.completions.create
    if client == "anthropic":
        create = claude.messages.create
    stream = create(model=target, max_tokens=9, messages=ASK, stream=True)
    with pytest.raises((anthropic.APIStatusError, openai.APIError), match="cut its stream short"):
        list(stream)
    last = served.http.get("/v1/decisions").json()["data"][0]
    outcome = served.http.get(f"/v1/decisions/{last['id']}").json()["outcome"]
    assert outcome["status"] == "error"
    assert outcome["input_tokens"] > 0


def test_a_request_that_would_lose_something_never_reaches_the_target(served, world):
    world.script("gpt@t", body=chat_answer({"content": "so"}))
    world.script("claude@t", body=message_answer([{"type": "text", "text": "so"}]))
    before = len(world.seen("gpt@t")) + len(world.seen("claude@t"))
    body = {"model": "wye", "max_tokens": 9, "messages": ASK, "top_k": 5}
    answer = served.http.post("/v1/messages", json=body)
    assert answer.headers["x-wye-target"] == "claude"
    decision = served.decision(answer)
    assert decision["excluded"]["gpt"] == "the translation from messages to chat cannot carry top_k"
    named = served.http.post("/v1/messages", json={**body, "model": "gpt"})
    assert named.status_code == 400
    assert "cannot carry top_k" in named.json()["error"]["message"]
    chat = served.ask("claude", seed=7)
    assert chat.status_code == 400
    assert "cannot carry seed" in chat.json()["error"]["message"]
    assert len(world.seen("gpt@t")) + len(world.seen("claude@t")) == before + 1


def test_what_a_target_speaks_passes_through_it_untouched(served, world):
    world.script("gpt@t", body=chat_answer({"content": "so"}, from_tomorrow=[1]))
    answer = served.ask("gpt", top_k=5, seed=7, new={"deep": [None]})
    assert answer.json()["from_tomorrow"] == [1]
    sent = world.seen("gpt@t")[-1]["body"]
    assert (sent["top_k"], sent["seed"], sent["new"]) == (5, 7, {"deep": [None]})
    assert "translated" not in served.decision(answer)["features"]


@pytest.mark.parametrize(
    ("status", "error", "headers", "expected", "fault"),
    [
        (429, {"message": "slow down"}, {"retry-after": "7"}, 503, "rate_limit"),
        (500, {"message": "trouble"}, {}, 503, "status"),
        (401, {"message": "the key was sk-ant-secret"}, {}, 503, "status"),
        (400, {"message": "prompt is too long: 9 > 8"}, {}, 400, "context"),
        (400, {"message": "top_j: Extra inputs"}, {}, 400, None),
        (529, {"message": "Overloaded"}, {}, 503, "status"),
    ],
)
def test_errors_of_anthropic_come_to_a_chat_client_as_what_they_are(
    served, world, status, error, headers, expected, fault
):
    error = {"type": "error", "error": {"type": "some_error", **error}}
    world.script("claude@t", status=status, body=error, headers=headers)
    answer = served.ask("claude")
    assert answer.status_code == expected
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "sk-ant-secret" not in answer.text
    attempts = served.decision(answer)["outcome"]["attempts"]
    assert {attempt["fault"] for attempt in attempts} == ({fault} if fault else {"request"})
    if fault is None:
        assert answer.json()["error"]["message"] == "top_j: Extra inputs"


def test_a_chat_client_waits_no_longer_for_anthropic_than_it_is_told_to(served, world):
    world.script("claude@t", events=["hang"])
    answer = served.ask("claude", stream=True)
    assert answer.status_code == 503
    assert "claude sent no first byte within 2 s" in answer.json()["error"]["message"]
    world.script(
        "claude@t", events=[*list(message_events(({"type": "text", "text": "a"},)))[:3], "hang"]
    )
    answer = served.ask("claude", stream=True)
    assert "claude fell silent: nothing more came within 1 s" in answer.text


def test_anthropic_that_floods_is_cut_off(served, world):
    world.script("claude@t", events=["flood"])
    answer = served.ask("claude", stream=True)
    assert answer.status_code == 503
    assert "claude floods" in answer.json()["error"]["message"]
    assert served.decision(answer)["outcome"]["attempts"][0]["fault"] == "garbage"


def test_errors_of_a_chat_target_have_the_shape_of_messages(served, world):
    error = {"message": "bad top", "type": "invalid_request_error", "param": None, "code": None}
    world.script("gpt@t", status=400, body={"error": error})
    body = {"model": "gpt", "max_tokens": 9, "messages": ASK}
    answer = served.http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert answer.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "bad top"},
    }


@pytest.mark.parametrize("field", ["temperature", "stop_sequences", "tool_choice", "tools"])
def test_fields_of_a_wrong_type_are_named_and_their_content_is_not(served, field):
    body = {"model": "gpt", "max_tokens": 9, "messages": ASK, field: "a secret"}
    answer = served.http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
    assert "a secret" not in answer.json()["error"]["message"]


def test_a_target_that_speaks_neither_cannot_be_translated():
    text = '[[targets]]\nname = "v"\nbase_url = "http://x"\nspeaks = ["embeddings"]\n'
    text += "translate = true\n"
    with pytest.raises(ConfigError, match="translate needs a target that speaks chat or messages"):
        parse_config(text)


def test_without_the_library_the_configuration_says_which_extra_is_missing(monkeypatch):
    text = '[[targets]]\nname = "g"\nbase_url = "http://x"\ntranslate = true\n'
    targets = parse_config(text).targets
    monkeypatch.setitem(sys.modules, "any_llm", None)
    monkeypatch.setattr("wye.gateway.providers.library.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r'target g: .*pip install "wye\[providers\]"'):
        build_upstreams(targets)


def test_a_gateway_that_translates_nothing_loads_no_library():
    program = "import sys, wye.gateway.app, wye.gateway.upstream; print('any_llm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


async def test_a_translated_call_says_to_which_trace_it_belongs(world):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    world.script("traced@t", body=message_answer([{"type": "text", "text": "so"}]))
    url = world.base_url.removesuffix("/v1")
    target = Target(name="traced", model="traced@t", kind="anthropic", base_url=url, translate=True)
    upstream = build_upstreams([target])["traced"]
    await upstream.start()
    kept = OUTGOING.set({"traceparent": parent})
    try:
        await upstream.complete({"model": "wye", "messages": ASK})
    finally:
        OUTGOING.reset(kept)
        await upstream.close()
    assert world.seen("traced@t")[-1]["traceparent"] == parent
