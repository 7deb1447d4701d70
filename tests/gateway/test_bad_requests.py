"""Bad requests: always OpenAI's error shape, always the field at fault, never a crash."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.errors import ApiError
from wye.gateway.openai_api import ChatRequest, parse_chat, parse_json

GOOD = {"model": "wye", "messages": [{"role": "user", "content": "hi"}]}
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[world.target("ok", context=1000, tags=["tools"]), world.target("ok2", model="ok")],
        server={"max_body_mb": 0.01},
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: "),
        (b'{"model": "wye", "messages": "\xff"}', "not UTF-8 (byte 30 is 0xff)"),
        (b"[]", "a JSON array; expected an object"),
        (b"null", "a JSON null"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON number"),
        (b'{"temperature": 1e999}', "1e999 is too large"),
        (b'{"n": ' + b"9" * 5000 + b"}", "cannot be used: more than 4300 digits"),
        (b"\xef\xbb\xbf{}", "not JSON: it begins with a byte order mark"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "more than 500 levels"),
        (b'{"a": "\\ud83d"}', "half a surrogate pair"),
        (b'{"model": "wye", "a": {"b": 1, "c": 2, "b": 1}}', "the field 'b' twice"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(served, raw, said):
    answer = served.http.post("/v1/chat/completions", content=raw)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"model": None}, "model", "expected a name"),
        ({"model": 4}, "model", "model is 4"),
        ({"messages": None}, "messages", "messages is null; expected a list"),
        ({"messages": {}}, "messages", "messages is object"),
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": ["hi"]}, "messages[0]", 'messages[0] is "hi"'),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "expected one of system"),
        ({"messages": [*USER, {"role": "boss"}]}, "messages[1].role", '"boss"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "is 3"),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content[0]",
            "expected an object with a type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "expected a string",
        ),
        ({"stream": "yes"}, "stream", "expected true or false"),
        ({"stream_options": []}, "stream_options", "expected an object"),
        ({"max_tokens": -1}, "max_tokens", "at least 1"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "a whole number"),
        ({"max_tokens": 10**400}, "max_tokens", "at most 2147483647"),
        ({"n": 5.0}, "n", "n is 5.0; expected a whole number"),
        ({"n": "5"}, "n", 'n is "5"; expected a whole number'),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 10**400}, "n", "at most 2147483647"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(served, changes, param, said):
    answer = served.http.post("/v1/chat/completions", json={**GOOD, **changes})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_a_413(served, declared):
    raw = json.dumps({**GOOD, "padding": "x" * 20_000}).encode()
    content = raw if declared else (raw[i : i + 1000] for i in range(0, len(raw), 1000))
    answer = served.http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 413
    assert "server.max_body_mb" in answer.json()["error"]["message"]
    assert served.ask("wye").status_code == 200


def test_refused_requests_are_counted_and_not_kept_as_decisions(served):
    served.http.post("/v1/chat/completions", content=b"{")
    assert 'wye_rejected_requests_total{code="400"} 1.0' in served.http.get("/metrics").text
    assert served.http.get("/v1/decisions").json()["data"] == []


def test_unknown_paths_and_methods_answer_in_the_same_shape(served):
    for answer, status in [
        (served.http.get("/v1/nothing"), 404),
        (served.http.get("/nothing"), 404),
        (served.http.get("/v1/chat/completions"), 405),
    ]:
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_targets_that_lack_a_capability_are_no_candidates(served):
    answer = served.ask(tools=[{"type": "function", "function": {"name": "f"}}])
    assert answer.headers["x-wye-target"] == "ok"
    decision = served.decision(answer)
    assert "needs tools" in decision["excluded"]["ok2"]
    assert [c["allowed"] for c in decision["candidates"] if c["target"] == "ok2"] == [False]


def test_targets_whose_context_is_too_small_are_no_candidates(served):
    answer = served.ask(text="x" * 4100)
    assert answer.headers["x-wye-target"] == "ok2"
    assert "its context is 1000" in served.decision(answer)["excluded"]["ok"]
    assert served.ask(max_tokens=5000).headers["x-wye-target"] == "ok2"


def test_when_no_target_can_ever_take_it_the_request_is_at_fault(served):
    content = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    answer = served.ask(messages=[{"role": "user", "content": content}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "no_target_fits"
    assert "ok2: the request needs vision" in error["message"]
    decision = served.decision(answer)
    assert decision["target"] is None
    assert decision["outcome"]["status"] == "error"


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(["user", "assistant", "text", "image_url", "wye"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=3), st.sampled_from(["role", "content", "type", "text"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.one_of(st.just("wye"), JSON),
        "messages": st.one_of(
            st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
                    optional={"content": JSON},
                ),
                max_size=3,
            ),
            JSON,
        ),
        "stream": JSON,
        "stream_options": JSON,
        "tools": JSON,
        "max_tokens": JSON,
    },
)


def refusal_or(read, raw):
    """What `read` makes of the bytes, or the error with which it refuses them."""
    try:
        return read(raw)
    except ApiError as error:
        return error


@given(BODIES)
def test_any_json_is_either_understood_or_refused_with_a_reason(body):
    found = refusal_or(lambda raw: parse_chat(parse_json(raw)), json.dumps(body).encode())
    if isinstance(found, ApiError):
        assert found.status == 400
        assert found.message
        json.dumps(found.body(), allow_nan=False)
    else:
        assert isinstance(found, ChatRequest)
        assert found.input_tokens_estimate >= 1
        assert len(found.text) <= found.characters + len(body["messages"]) * 10


def test_a_body_with_many_brackets_side_by_side_is_read():
    assert parse_json(b'{"a": [' + b"[[]]," * 5000 + b"1]}")["a"][-1] == 1
    deepest = b'{"a": ' + b"[" * 499 + b"]" * 499 + b"}"
    assert parse_json(deepest)


def test_a_name_that_is_no_model_is_not_said_back_whole(served):
    answer = served.http.post("/v1/chat/completions", json={**GOOD, "model": "x" * 8000})
    assert answer.status_code == 404
    assert len(answer.text) < 500


def test_a_body_nested_beyond_reading_is_refused():
    with pytest.raises(ApiError, match="nested too deeply"):
        parse_json(b'{"a": ' * 100_000 + b"1" + b"}" * 100_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_an_object_or_refused(raw):
    found = refusal_or(parse_json, raw)
    assert isinstance(found, dict) or found.status == 400


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_body_that_is_understood_is_not_changed_by_it(body):
    text = json.dumps(body)
    found = refusal_or(parse_json, text.encode())
    assert isinstance(found, ApiError) or json.dumps(found) == text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": USER}),
        ("/v1/messages", {"messages": USER, "max_tokens": 5}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
)
def test_where_the_store_fails_an_answer_is_refused_as_any_page_is(
    served, monkeypatch, path, fields
):
    async def admit(*_asked):
        raise sa.exc.OperationalError("UPDATE accounts", None, OSError("disk I/O error"))

    monkeypatch.setattr(served.gateway.admission, "admit", admit)
    answer = served.http.post(path, json={"model": "ok", **fields})
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "5"
    assert "disk I/O error" in answer.json()["error"]["message"]
    assert "UPDATE" not in answer.text
