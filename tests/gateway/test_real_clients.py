"""Clients that people use, each asked the same through the gateway and straight: nothing differs.

What reaches the upstream and what comes back is compared with the same call without a gateway, so
every field that a client writes or reads is covered, known to wye or not.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import anthropic
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

PIXEL = "data:image/png;base64,iVBORw0KGgo="
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "looks",
        "strict": True,
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
CALL: Any = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
ASK: Any = [{"role": "user", "content": "What is 6 x 7?"}]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "number",
        "strict": True,
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
CHATS: dict[str, dict[str, Any]] = {
    "tools": {
        "messages": [
            {"role": "system", "content": "be brief"},
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        ],
        "tools": [LOOK],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
    },
    "pictures": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                ],
            }
        ]
    },
    "structured output": {"messages": ASK, "response_format": SCHEMA},
    "log-probabilities": {"messages": ASK, "logprobs": True, "top_logprobs": 2},
    "several answers": {"messages": ASK, "n": 2, "seed": 7, "temperature": 0.3},
    "everything else": {
        "messages": ASK,
        "stop": ["a", "b"],
        "logit_bias": {"50256": -100},
        "user": "u7",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "reasoning_effort": "low",
        "extra_body": {"top_k": 40, "of_tomorrow": {"deep": [None, 1.5, "é😀"]}},
    },
}


def answer(model):
    token = {"token": "so", "logprob": -0.1, "bytes": [115, 111], "top_logprobs": []}
    choice = {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": "so", "refusal": None, "tool_calls": [CALL]},
        "logprobs": {"content": [token], "refusal": None},
    }
    details = {"cached_tokens": 4, "audio_tokens": 0}
    return {
        "id": "chatcmpl-7", "object": "chat.completion", "created": 5, "model": model,
        "choices": [choice, {**choice, "index": 1, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        "system_fingerprint": "fp_7", "service_tier": "flex", "of_tomorrow": [1, None],
    }  # fmt: skip


def pieces(model):
    whole = answer(model)
    head = {**{k: whole[k] for k in ("id", "created", "model", "of_tomorrow")}}
    head["object"] = "chat.completion.chunk"
    for index in (0, 1):
        for delta in ({"role": "assistant", "content": "s"}, {"content": "o"}):
            choice = {"index": index, "delta": delta, "finish_reason": None}
            choice["logprobs"] = whole["choices"][0]["logprobs"]
            yield {**head, "choices": [choice], "usage": None}
        call = {"tool_calls": [{"index": 0, **CALL}]}
        choice = {"index": index, "delta": call, "finish_reason": "tool_calls"}
        yield {**head, "choices": [choice], "usage": None}
    yield {**head, "choices": [], "usage": whole["usage"]}
    yield "[DONE]"


@pytest.fixture
def served(serve, world, monkeypatch):
    monkeypatch.setenv("STRAIGHT_KEY", "sk-straight")
    tags = {"tags": ["tools", "vision"], "api_key_env": "STRAIGHT_KEY"}
    root = world.base_url.removesuffix("/v1")
    return serve(
        targets=[
            world.target("c", model="whole@clients", **tags),
            world.target("s", model="pieces@clients", **tags),
            world.target("m", model="claude@clients", kind="anthropic", base_url=root, **tags),
        ]
    )


@pytest.fixture(autouse=True)
def scripted(world):
    world.script("whole@clients", body=answer("whole@clients"))
    world.script("pieces@clients", events=list(pieces("pieces@clients")))


@pytest.fixture
def straight(world):
    with openai.OpenAI(base_url=world.base_url, api_key="sk-straight", max_retries=0) as client:
        yield client


def the_last_two(world, model):
    """What came of the last two calls, without and with the gateway."""
    without, through = world.seen(model)[-2:]
    assert without["headers"]["authorization"] == through["headers"]["authorization"]
    return without["body"], through["body"]


@pytest.mark.parametrize("kind", CHATS)
def test_the_openai_client_sees_no_gateway(served, straight, world, kind):
    call = CHATS[kind]
    expected = straight.chat.completions.create(model="whole@clients", **call)
    got = served.openai.chat.completions.create(model="c", **call)
    assert got.model_dump() == expected.model_dump()
    without, through = the_last_two(world, "whole@clients")
    assert without == through


@pytest.mark.parametrize("kind", CHATS)
def test_the_openai_client_sees_no_gateway_in_a_stream(served, straight, world, kind):
    call = {**CHATS[kind], "stream": True, "stream_options": {"include_usage": True}}
    expected = list(straight.chat.completions.create(model="pieces@clients", **call))
    got = list(served.openai.chat.completions.create(model="s", **call))
    assert [p.model_dump() for p in got] == [p.model_dump() for p in expected]
    assert got[-1].usage.completion_tokens_details.reasoning_tokens == 3
    without, through = the_last_two(world, "pieces@clients")
    assert without == through


class Number(BaseModel):
    """A number."""

    n: int


def test_the_openai_client_parses_structured_output(served, straight, world):
    parsed = {"role": "assistant", "content": '{"n": 42}', "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": parsed}
    world.script("whole@clients", body={**answer("whole@clients"), "choices": [choice]})
    for client, model in ((straight, "whole@clients"), (served.openai, "c")):
        got = client.chat.completions.parse(model=model, messages=ASK, response_format=Number)
        assert got.choices[0].message.parsed == Number(n=42)
    without, through = the_last_two(world, "whole@clients")
    assert without == through


def langchain(url, model):
    return ChatOpenAI(
        base_url=url, model=model, api_key=SecretStr("sk-straight"), max_retries=0, temperature=0.3
    )


TALK = [
    SystemMessage("be brief"),
    HumanMessage(
        [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ]
    ),
    AIMessage("", tool_calls=[{"name": "look", "args": {"at": "sky"}, "id": "c1"}]),
    ToolMessage("blue", tool_call_id="c1"),
]


def test_langchain_sees_no_gateway(served, world):
    models = [
        langchain(world.base_url, "whole@clients").bind_tools([LOOK]),
        langchain(f"{served.url}/v1", "c").bind_tools([LOOK]),
    ]
    expected, got = (model.invoke(TALK) for model in models)
    assert got.tool_calls == expected.tool_calls
    assert got.tool_calls[0]["name"] == "look"
    assert got.usage_metadata == expected.usage_metadata
    assert got.response_metadata == expected.response_metadata
    without, through = the_last_two(world, "whole@clients")
    assert without == through


def test_langchain_sees_no_gateway_in_a_stream(served, world):
    models = [
        langchain(world.base_url, "pieces@clients"),
        langchain(f"{served.url}/v1", "s"),
    ]
    expected, got = (list(model.stream(TALK, stream_usage=True)) for model in models)
    assert [p.content for p in got] == [p.content for p in expected]
    assert [p.usage_metadata for p in got] == [p.usage_metadata for p in expected]
    without, through = the_last_two(world, "pieces@clients")
    assert without == through


def test_langchain_gets_structured_output(served, world):
    message = {"role": "assistant", "content": '{"n": 42}', "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    world.script("whole@clients", body={**answer("whole@clients"), "choices": [choice]})
    for url, name in ((world.base_url, "whole@clients"), (f"{served.url}/v1", "c")):
        model = langchain(url, name).with_structured_output(Number, method="json_schema")
        assert model.invoke("Which number?") == Number(n=42)
    without, through = the_last_two(world, "whole@clients")
    assert without == through


CLAUDE: Any = {
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"name": "look", "input_schema": {"type": "object"}, "cache_control": None}],
    "tool_choice": {"type": "auto"},
    "metadata": {"user_id": "u7"},
    "extra_headers": {"anthropic-beta": "a-1"},
    "extra_body": {"of_tomorrow": [1, None]},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
            ],
        }
    ],
}


def test_the_anthropic_client_sees_no_gateway(served, world):
    block = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sky"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_read_input_tokens": 9}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude@clients",
        "content": [thought, block], "stop_reason": "tool_use", "stop_sequence": None,
        "usage": usage, "of_tomorrow": {"kept": True},
    }  # fmt: skip
    world.script("claude@clients", body=message)
    root = world.base_url.removesuffix("/v1")
    told = []
    for url, model in ((root, "claude@clients"), (served.url, "m")):
        with anthropic.Anthropic(base_url=url, api_key="sk-straight", max_retries=0) as client:
            told.append(client.messages.create(model=model, **CLAUDE).model_dump())
    assert told[0] == told[1]
    without, through = world.seen("claude@clients")[-2:]
    assert without["body"] == through["body"]
    for name in ("x-api-key", "anthropic-version", "anthropic-beta"):
        assert without["headers"][name] == through["headers"][name]


def curl(url, body, *more):
    command = ["curl", "-sN", url, "-H", "authorization: Bearer sk-straight", *more]
    done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, timeout=30)
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("kind", CHATS)
def test_curl_sees_no_gateway(served, world, kind):
    call = {k: v for k, v in CHATS[kind].items() if k != "extra_body"}
    call |= CHATS[kind].get("extra_body", {})
    expected = curl(f"{world.base_url}/chat/completions", {"model": "whole@clients", **call})
    got = curl(f"{served.url}/v1/chat/completions", {"model": "c", **call})
    assert json.loads(got) == json.loads(expected)
    without, through = the_last_two(world, "whole@clients")
    assert without == through
