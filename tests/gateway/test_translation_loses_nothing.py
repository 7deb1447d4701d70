"""What is carried between surfaces arrives whole; what is not carried stops the translation."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wye.gateway.errors import ApiError
from wye.gateway.providers.carried import UncarriedError
from wye.gateway.providers.chat_to_messages import carry_chat
from wye.gateway.providers.messages_to_chat import carry_messages
from wye.gateway.surfaces import CHAT, MESSAGES

ASK = [{"role": "user", "content": "What is 6 x 7?"}]
SAID_SO = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude@t",
    "content": [{"type": "text", "text": "so"}], "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 5},
}  # fmt: skip


@pytest.fixture
def served(serve, world):
    root = world.base_url.removesuffix("/v1")
    rest = {"tags": ["tools", "vision"], "translate": True}
    world.script("claude@t", body=SAID_SO)
    return serve(
        targets=[world.target("c", model="claude@t", kind="anthropic", base_url=root, **rest)]
    )


# Every leaf of these requests is a word of its own, so that a lost one shows.
def words(draw_from="abcdefgh"):
    return st.integers(10_000, 99_999).map(lambda n: f"w{n}{draw_from[n % 8]}")


TEXT = st.builds(lambda w: {"type": "text", "text": w}, words())
IMAGE = st.one_of(
    st.builds(lambda w: {"type": "url", "url": f"http://x.test/{w}"}, words()),
    st.builds(lambda w: {"type": "base64", "media_type": "image/png", "data": w}, words()),
).map(lambda source: {"type": "image", "source": source})
USE = st.builds(
    lambda i, n, k, v: {"type": "tool_use", "id": i, "name": n, "input": {k: [v]}},
    words(), words(), words(), words(),
)  # fmt: skip
RESULT = st.builds(
    lambda i, c: {"type": "tool_result", "tool_use_id": i, "content": c},
    words(), st.one_of(words(), st.lists(st.one_of(TEXT, IMAGE), min_size=1, max_size=2)),
)  # fmt: skip
USER = st.builds(
    lambda c: {"role": "user", "content": c},
    st.one_of(words(), st.lists(st.one_of(TEXT, IMAGE, RESULT), min_size=1, max_size=3)),
)
SAID = st.builds(
    lambda c: {"role": "assistant", "content": c},
    st.one_of(words(), st.lists(st.one_of(TEXT, USE), min_size=1, max_size=3)),
)
TOOL = st.builds(
    lambda n, d, p: {
        "name": n, "description": d,
        "input_schema": {"type": "object", "properties": {p: {"type": "string"}}},
    },
    words(), words(), words(),
)  # fmt: skip
MESSAGES_BODY = st.builds(
    lambda turns, last, optional: {
        "model": "m", "max_tokens": 9, "messages": [*turns, last], **optional,
    },
    st.lists(st.one_of(USER, SAID), max_size=3),
    USER,
    st.fixed_dictionaries(
        {},
        optional={
            "system": st.one_of(words(), st.lists(TEXT, min_size=1, max_size=2)),
            "tools": st.lists(TOOL, min_size=1, max_size=2),
            "tool_choice": words().map(lambda w: {"type": "tool", "name": w}),
            "stop_sequences": st.lists(words(), min_size=1, max_size=2),
            "temperature": st.floats(0, 1),
            "top_p": st.floats(0, 1),
        },
    ),
)  # fmt: skip


def leaves(value):
    """Words that were drawn, wherever they stand."""
    return set(re.findall(r"w\d{5}[a-h]", json.dumps(value)))


@settings(deadline=None)
@given(MESSAGES_BODY)
def test_nothing_that_is_carried_from_messages_to_chat_is_lost(body):
    from any_llm.types.messages import MessagesParams
    from any_llm.utils.messages_compat import messages_params_to_completion_params

    carried = carry_messages(body, {})
    assert carried.left_out == []
    sent = messages_params_to_completion_params(MessagesParams(**carried.body))
    assert leaves(sent) == leaves(body)
    for name in ("temperature", "top_p"):
        assert sent.get(name) == body.get(name)


PART = st.one_of(
    TEXT,
    st.builds(lambda w: {"type": "image_url", "image_url": {"url": f"http://x.test/{w}"}}, words()),
    st.builds(
        lambda w: {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{w}"}},
        words(),
    ),
)
CALL = st.builds(
    lambda i, n, k, v: {
        "id": i, "type": "function", "function": {"name": n, "arguments": json.dumps({k: v})},
    },
    words(), words(), words(), words(),
)  # fmt: skip
CHAT_TURN = st.one_of(
    st.builds(
        lambda c: {"role": "user", "content": c},
        st.one_of(words(), st.lists(PART, min_size=1, max_size=3)),
    ),
    st.builds(
        lambda c, calls: {"role": "assistant", "content": c, "tool_calls": calls},
        st.one_of(words(), st.lists(TEXT, min_size=1, max_size=2)),
        st.lists(CALL, max_size=2),
    ),
    st.builds(
        lambda i, c: {"role": "tool", "tool_call_id": i, "content": c},
        words(), st.one_of(words(), st.lists(TEXT, min_size=1, max_size=2)),
    ),
)  # fmt: skip
FUNCTION = st.builds(
    lambda n, d, p: {
        "type": "function",
        "function": {
            "name": n, "description": d,
            "parameters": {"type": "object", "properties": {p: {"type": "string"}}},
        },
    },
    words(), words(), words(),
)  # fmt: skip
CHAT_BODY = st.builds(
    lambda system, turns, optional: {"model": "m", "messages": [*system, *turns], **optional},
    st.lists(
        st.builds(
            lambda r, c: {"role": r, "content": c},
            st.sampled_from(["system", "developer"]),
            st.one_of(words(), st.lists(TEXT, min_size=1, max_size=2)),
        ),
        max_size=2,
    ),
    st.lists(CHAT_TURN, min_size=1, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "tools": st.lists(FUNCTION, min_size=1, max_size=2),
            "tool_choice": words().map(lambda w: {"type": "function", "function": {"name": w}}),
            "stop": st.one_of(words(), st.lists(words(), min_size=1, max_size=2)),
            "temperature": st.floats(0, 1),
            "response_format": words().map(
                lambda w: {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "x",
                        "schema": {"type": "object", "properties": {w: {"type": "string"}}},
                    },
                }
            ),
        },
    ),
)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(CHAT_BODY)
def test_nothing_that_is_carried_from_chat_to_anthropic_is_lost(served, world, body):
    answer = served.http.post("/v1/chat/completions", json={**body, "model": "c"})
    assert answer.status_code == 200, answer.text
    sent = world.seen("claude@t")[-1]["body"]
    assert leaves(sent) == leaves(body)
    assert sent.get("temperature") == body.get("temperature")


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "source", "tool_calls", "function", "id",
                 "name", "arguments", "input", "image_url", "url", "file", "format", "schema"]
            ),
            st.one_of(inner, st.sampled_from(
                ["user", "assistant", "system", "tool", "text", "image", "tool_result", "tool_use",
                 "image_url", "file", "function", "json_schema", "custom", "enabled"])),
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip
NAMES = (
    "messages", "tools", "tool_choice", "system", "thinking", "output_config", "response_format",
    "temperature", "stop", "n", "stream_options", "top_p", "field_of_tomorrow",
)  # fmt: skip


@given(st.sampled_from([CHAT, MESSAGES]), st.dictionaries(st.sampled_from(NAMES), ANY))
def test_any_valid_request_is_carried_or_refused_with_the_place(surface, changes):
    body = {"model": "m", "max_tokens": 9, "messages": ASK, **changes}
    written = json.dumps(body)
    found = carried_or_reason(surface, body)
    assert json.dumps(body) == written
    if changes.get("field_of_tomorrow") is not None:
        assert isinstance(found, str)
    assert found["model"] == "m" if isinstance(found, dict) else found


def carried_or_reason(surface, body):
    """The request for the library, or why there is none."""
    try:
        read = surface.read(body, {})
        if surface is CHAT:
            return carry_chat(read.body, 9).body
        return carry_messages(read.body, read.body.headers).body
    except (ApiError, UncarriedError) as error:
        return str(error)
