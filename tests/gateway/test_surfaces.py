"""Messages, responses and embeddings by their official clients, before a real upstream process."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from typing import get_args

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway import sse
from wye.gateway.config import ConfigError, SurfaceName
from wye.gateway.config_file import parse_config
from wye.gateway.errors import ApiError
from wye.gateway.money.bounds import bounds_of
from wye.gateway.openai_api import parse_json
from wye.gateway.surfaces import EMBEDDINGS, MESSAGES, RESPONSES, SURFACES, Reading

SAID = "Forty-two it is."
ASK = [{"role": "user", "content": "What is 6 x 7?"}]


@pytest.fixture
def served(serve, world, monkeypatch):
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant-secret")
    root = world.base_url.removesuffix("/v1")
    anthropics = {"kind": "anthropic", "base_url": root, "api_key_env": "CLAUDE_KEY"}
    everything = {"speaks": ["chat", "responses", "embeddings"]}
    broken = {"cut": "cut-midway", "over": "overloaded", "long": "too-long", "down": "500"}
    return serve(
        targets=[
            world.target("claude", model="ok@claude", quality=0.9, tags=["vision"], **anthropics),
            world.target("claude-crlf", model="ok@crlf", quality=0.1, **anthropics),
            world.target("gpt", model="ok@gpt", quality=0.8, **everything),
            world.target("chat-only", model="ok@chat", quality=1.0),
            world.target("refuse", model="refuse@m", quality=0.0, **anthropics),
            *(
                world.target(n, model=f"{m}@m", quality=0.0, **anthropics)
                for n, m in broken.items()
            ),
            world.target("cut-r", model="cut-midway@r", quality=0.0, speaks=["responses"]),
            world.target("failed-r", model="failed@r", quality=0.0, speaks=["responses"]),
        ]
    )


@pytest.fixture
def claude(served):
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        yield client


def decided(served, raw):
    return served.http.get(f"/v1/decisions/{raw.headers['x-wye-decision']}").json()


def test_the_anthropic_client_gets_a_message_and_its_cache_is_billed(served, claude, world):
    raw = claude.messages.with_raw_response.create(model="wye", max_tokens=50, messages=ASK)
    answer = raw.parse()
    assert answer.content[0].text == SAID
    assert answer.usage.cache_read_input_tokens == 100
    assert json.loads(raw.http_response.content)["from_tomorrow"] == {"kept": True}
    decision = decided(served, raw)
    assert decision["target"] == "claude"
    assert decision["text"] == "What is 6 x 7?"
    assert decision["features"]["surface"] == "messages"
    outcome = decision["outcome"]
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (127, 5)
    assert (outcome["cached_input_tokens"], outcome["cache_write_tokens"]) == (100, 20)
    assert outcome["reasoning_tokens"] == 2
    assert outcome["finish_reason"] == "end_turn"
    headers = world.seen("ok@claude")[-1]["headers"]
    assert headers["x-api-key"] == "sk-ant-secret"
    assert "authorization" not in headers


@pytest.mark.parametrize("target", ["claude", "claude-crlf"])
def test_the_anthropic_client_gets_a_stream_of_named_events(served, claude, target):
    with claude.messages.stream(model=target, max_tokens=50, messages=ASK) as stream:
        assert "".join(stream.text_stream) == SAID
        final = stream.get_final_message()
        decision_id = stream.response.headers["x-wye-decision"]
    assert final.stop_reason == "end_turn"
    outcome = served.http.get(f"/v1/decisions/{decision_id}").json()["outcome"]
    assert (outcome["status"], outcome["tokens_estimated"]) == ("ok", False)
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (127, 5)
    assert outcome["cached_input_tokens"] == 100


def test_everything_but_the_model_reaches_anthropic_untouched(served, world):
    body = {
        "max_tokens": 9,
        "system": [{"type": "text", "text": "é", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "new": [1.5]}]}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "field_of_tomorrow": {"deep": [None, True]},
    }
    headers = {"anthropic-version": "2024-01-01", "anthropic-beta": "a-1,b-2", "cookie": "no=1"}
    answer = served.http.post("/v1/messages", json={"model": "wye", **body}, headers=headers)
    assert answer.status_code == 200
    seen = world.seen("ok@claude")[-1]
    assert seen["body"] == {"model": "ok@claude", **body}
    assert seen["path"] == "/v1/messages"
    assert seen["headers"]["anthropic-version"] == "2024-01-01"
    assert seen["headers"]["anthropic-beta"] == "a-1,b-2"
    assert "cookie" not in seen["headers"]


def test_a_version_is_sent_where_the_client_sends_none(served, world):
    body = {"model": "claude", "max_tokens": 9, "messages": ASK}
    assert served.http.post("/v1/messages", json=body).status_code == 200
    assert world.seen("ok@claude")[-1]["headers"]["anthropic-version"] == "2023-06-01"


def test_targets_that_do_not_speak_a_surface_are_no_candidates(served):
    body = {"model": "wye", "max_tokens": 9, "messages": ASK}
    decision = served.decision(served.http.post("/v1/messages", json=body))
    assert "does not speak messages" in decision["excluded"]["chat-only"]
    assert "it speaks chat, responses, embeddings" in decision["excluded"]["gpt"]
    chat = served.decision(served.ask("wye"))
    assert chat["target"] == "chat-only"
    assert "it speaks messages" in chat["excluded"]["claude"]


def test_a_target_asked_by_name_on_a_surface_that_it_does_not_speak_is_a_400(served, claude):
    with pytest.raises(anthropic.BadRequestError, match="chat-only: it does not speak messages"):
        claude.messages.create(model="chat-only", max_tokens=9, messages=ASK)
    with pytest.raises(openai.BadRequestError, match="claude: it does not speak chat"):
        served.openai.chat.completions.create(model="claude", messages=ASK)


def test_errors_have_the_shape_of_the_surface(served, claude):
    for body, kind, status in [
        ({"model": "wye", "messages": ASK}, "invalid_request_error", 400),
        ({"model": "who", "max_tokens": 9, "messages": ASK}, "not_found_error", 404),
        ({"model": "down", "max_tokens": 9, "messages": ASK}, "overloaded_error", 503),
    ]:
        answer = served.http.post("/v1/messages", json=body)
        assert answer.status_code == status
        said = answer.json()
        assert (said["type"], said["error"]["type"]) == ("error", kind)
        assert set(said["error"]) == {"type", "message"}
    with pytest.raises(anthropic.BadRequestError, match="top_j: Extra inputs are not permitted"):
        claude.messages.create(model="refuse", max_tokens=9, messages=ASK)
    assert served.http.get("/v1/messages").json()["type"] == "error"


def test_a_header_that_cannot_be_passed_on_is_a_400(served):
    body = {"model": "claude", "max_tokens": 9, "messages": ASK}
    headers = {"anthropic-beta": "caf\u00e9".encode("latin-1")}
    answer = served.http.post("/v1/messages", json=body, headers=headers)
    assert answer.status_code == 400
    assert "anthropic-beta" in answer.json()["error"]["message"]


def test_a_prompt_too_long_for_a_target_says_nothing_against_its_health(served):
    for _ in range(4):
        answer = served.http.post(
            "/v1/messages", json={"model": "long", "max_tokens": 9, "messages": ASK}
        )
        assert answer.status_code == 400
        assert "prompt is too long" in answer.json()["error"]["message"]
    assert served.http.get("/healthz").json()["targets"]["long"] == "closed"


@pytest.mark.parametrize(("target", "said"), [("cut", "cut its stream"), ("over", "Overloaded")])
def test_a_stream_of_messages_that_breaks_off_ends_in_an_error(served, claude, target, said):
    stream = claude.messages.create(model=target, max_tokens=9, messages=ASK, stream=True)
    with pytest.raises(anthropic.APIStatusError, match=said):
        list(stream)
    last = served.http.get("/v1/decisions").json()["data"][0]
    outcome = served.http.get(f"/v1/decisions/{last['id']}").json()["outcome"]
    assert outcome["status"] == "error"
    assert outcome["input_tokens"] == 127


def test_the_openai_client_gets_a_response(served, world):
    raw = served.openai.responses.with_raw_response.create(
        model="gpt", input="What is 6 x 7?", instructions="be brief", extra_body={"new": [1]}
    )
    assert raw.parse().output_text == SAID
    decision = decided(served, raw)
    assert decision["text"] == "What is 6 x 7?"
    outcome = decision["outcome"]
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (30, 9)
    assert (outcome["cached_input_tokens"], outcome["reasoning_tokens"]) == (10, 4)
    assert outcome["finish_reason"] == "completed"
    sent = {"input": "What is 6 x 7?", "instructions": "be brief", "new": [1]}
    assert world.seen("ok@gpt")[-1]["body"] == {"model": "ok@gpt", **sent}


def test_the_openai_client_gets_a_stream_of_responses(served):
    with served.openai.responses.stream(model="gpt", input="What is 6 x 7?") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == SAID
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    last = served.http.get("/v1/decisions").json()["data"][0]
    outcome = served.http.get(f"/v1/decisions/{last['id']}").json()["outcome"]
    assert (outcome["status"], outcome["input_tokens"]) == ("ok", 30)


def test_a_stream_of_responses_that_is_cut_ends_in_an_error_event(served):
    events = list(served.openai.responses.create(model="cut-r", input="hi", stream=True))
    assert events[-1].type == "error"
    assert "cut its stream short" in events[-1].message


def test_a_response_that_failed_is_no_answer(served):
    answer = served.http.post("/v1/responses", json={"model": "failed-r", "input": "hi"})
    assert answer.status_code == 503
    assert "it broke" in answer.json()["error"]["message"]


FILE = {"type": "file", "file": {"file_id": "file-1"}}
UPLOAD = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}


@pytest.mark.parametrize(
    ("path", "kept", "body"),
    [
        ("responses", "previous_response_id", {"input": "x", "previous_response_id": "resp_1"}),
        ("responses", "item_reference", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("responses", "file_id", {"input": [{"role": "user", "content": [
            {"type": "input_file", "file_id": "file-1"}]}]}),
        ("chat/completions", "file_id", {"messages": [{"role": "user", "content": [FILE]}]}),
        ("messages", "file_id",
            {"max_tokens": 9, "messages": [{"role": "user", "content": [UPLOAD]}]}),
    ],
)  # fmt: skip
def test_what_a_provider_keeps_is_asked_of_a_target_by_name(serve, world, path, kept, body):
    speaks = {"speaks": [path.partition("/")[0]], "tags": ["vision"]}
    one, other = (world.target(name, model=f"ok@{name}", **speaks) for name in ("one", "other"))
    for url, status in ((one["base_url"], 200), ("https://elsewhere.invalid/v1", 400)):
        served = serve(targets=[one, {**other, "base_url": url}])
        answer = served.http.post(f"/v1/{path}", json={"model": "wye", **body})
        assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"].startswith(f"{kept} names what one provider keeps")
    assert served.http.post(f"/v1/{path}", json={"model": "one", **body}).status_code == 200


def test_the_openai_client_gets_embeddings_and_pays_for_input_alone(served, world):
    raw = served.openai.embeddings.with_raw_response.create(
        model="wye", input=["one", "two"], encoding_format="float"
    )
    assert raw.parse().data[0].embedding == [0.5, -0.25, 0.125]
    outcome = decided(served, raw)["outcome"]
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (6, 0)
    assert outcome["cost_usd"] == pytest.approx(6 * 1.0 / 1e6)
    assert world.seen("ok@gpt")[-1]["path"] == "/v1/embeddings"


def test_no_model_is_chosen_among_vectors_that_do_not_compare(serve, world):
    speaks = {"speaks": ["embeddings"]}
    targets = [world.target("a", model="ok@a", **speaks), world.target("b", model="ok@b", **speaks)]
    served = serve(targets=targets)
    refused = served.http.post("/v1/embeddings", json={"model": "wye", "input": "hi"})
    assert refused.status_code == 400
    assert "ask for one of a, b" in refused.json()["error"]["message"]
    assert served.http.post("/v1/embeddings", json={"model": "b", "input": "hi"}).is_success


def test_curl_reads_events_with_their_names(served):
    body = json.dumps({"model": "claude", "max_tokens": 9, "messages": ASK, "stream": True})
    command = ["curl", "-sN", f"{served.url}/v1/messages", "-H", "x-api-key: any", "-d", body]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    events = sse.Decoder().feed(done.stdout)
    assert [e.event for e in events[:2]] == ["message_start", "ping"]
    assert events[-1].event == "message_stop"
    assert all(json.loads(e.data)["type"] == e.event for e in events)


def test_a_key_that_is_wrong_is_refused_in_the_shape_of_the_surface(serve, world, monkeypatch):
    monkeypatch.setenv("WYE_TEST_ACCESS", "right")
    served = serve(targets=[world.target("ok")], server={"access_key_env": "WYE_TEST_ACCESS"})
    with (
        anthropic.Anthropic(base_url=served.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model="wye", max_tokens=9, messages=ASK)
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_configured_names_of_surfaces_are_those_there_are():
    assert set(get_args(SurfaceName)) == set(SURFACES)
    with pytest.raises(ConfigError, match="speaks messages and nothing else"):
        parse_config('[[targets]]\nname = "a"\nkind = "anthropic"\nspeaks = ["chat"]\n')
    target = parse_config('[[targets]]\nname = "a"\nkind = "anthropic"\n').targets[0]
    assert target.address == "https://api.anthropic.com/v1"
    assert target.surfaces == ("messages",)


def read(surface, body):
    return surface.read(parse_json(json.dumps(body).encode()), {})


def read_or_refusal(surface, body):
    try:
        return read(surface, body)
    except ApiError as error:
        return error


def test_of_messages_the_last_ask_is_read_and_results_of_tools_are_not():
    picture = {"type": "image", "source": {"type": "base64", "data": "A" * 9000}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [picture, {"type": "text", "text": "row " * 100}],
    }
    found = read(
        MESSAGES,
        {
            "model": "wye",
            "max_tokens": 30,
            "system": "You are an agent",
            "tools": [{"name": "look", "input_schema": {}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Sum the sales."}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "input": {}}]},
                {"role": "user", "content": [result]},
            ],
        },
    )
    assert found.text == "Sum the sales."
    assert found.needs == {"tools", "vision"}
    assert found.max_output == 30
    assert 400 < found.characters < 600


def test_of_responses_the_last_ask_is_read_and_results_of_tools_are_not():
    found = read(
        RESPONSES,
        {
            "model": "wye",
            "max_output_tokens": 40,
            "input": [
                {"role": "developer", "content": "be brief"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is in it?"},
                        {"type": "input_image", "image_url": "data:" + "A" * 9000},
                    ],
                },
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "rows " * 100},
            ],
        },
    )
    assert found.text == "What is in it?"
    assert found.needs == {"vision"}
    assert found.max_output == 40
    assert 500 < found.characters < 700


@pytest.mark.parametrize(
    ("surface", "brought"),
    [
        (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (MESSAGES, {"mcp_servers": [{"type": "url", "url": "https://mcp.test"}]}),
        (RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
        (RESPONSES, {"previous_response_id": "resp_1"}),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (
            MESSAGES,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "container_upload", "file_id": "file_1"}]}
                ]
            },
        ),
    ],
)
def test_input_that_a_provider_brings_in_is_bounded_by_the_context_alone(surface, brought):
    own = {"tools": [{"name": "f", "type": "custom", "description": "own"}]}
    body = {"model": "wye", "max_tokens": 5, "messages": ASK, "input": "hi"}
    for added, measured in (({}, True), (own, True), (brought, False)):
        found = read(surface, {**body, **added})
        assert bounds_of(found.body, found.max_output).measured is measured


def test_embeddings_reserve_no_output():
    found = read(EMBEDDINGS, {"model": "m", "input": [[1, 2, 3], [4]]})
    bounds = bounds_of(found.body, found.max_output)
    assert bounds.output == 0
    assert bounds.input >= 4


def test_of_embeddings_tokens_count_as_tokens():
    assert read(EMBEDDINGS, {"model": "m", "input": [1, 2, 3]}).input_tokens_estimate == 3
    found = read(EMBEDDINGS, {"model": "m", "input": ["ab", "cd"]})
    assert (found.text, found.characters, found.turns) == ("ab\ncd", 4, 2)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "source", "usage", "input_tokens", "delta",
                 "message", "response", "status", "output", "output_tokens", "error"]
            ),
            st.one_of(inner, st.sampled_from(["user", "text", "message_start", "image"])),
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = ("model", "max_tokens", "messages", "input", "system", "tools", "stream", "prompt")


@given(st.sampled_from(sorted(SURFACES)), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_is_either_understood_or_refused_with_a_reason(name, changes):
    body = {"model": "wye", "max_tokens": 5, "messages": ASK, "input": "hi", **changes}
    found = read_or_refusal(SURFACES[name], body)
    if isinstance(found, ApiError):
        assert found.status == 400
        assert found.message
    else:
        assert found.input_tokens_estimate >= 1
        assert dict(found.body) == body


@given(st.sampled_from(sorted(SURFACES)), st.dictionaries(
    st.sampled_from(["type", "usage", "message", "delta", "response", "content", "status", "error",
                     "output", "choices"]), JSON))  # fmt: skip
def test_any_answer_can_be_read(name, answer):
    surface, reading = SURFACES[name], Reading()
    if surface.is_answer(answer) or surface.is_piece(answer):
        surface.complaint(answer)
        surface.take(answer, reading)
        surface.ends(answer)
    assert reading.characters >= 0


LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@given(
    st.lists(st.tuples(st.text("abc._", min_size=1), st.lists(LINE, min_size=1))),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 1000)),
)
def test_named_events_of_several_lines_survive_any_cut(events, end, places):
    lines = [
        line
        for name, data in events
        for line in (f"event: {name}", ": beat", *(f"data: {part}" for part in data), "id: 1", "")
    ]
    # A final carriage return may still become half of a pair, so a plain line ends every stream.
    raw = (end.join([*lines, ": end", ""]) + "\n").encode()
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    decoder = sse.Decoder()
    found = [event for a, b in pairwise(edges) for event in decoder.feed(raw[a:b])]
    assert found == [sse.Event("\n".join(data), name) for name, data in events]


def test_tokens_are_counted_by_an_anthropic_target(serve, world, monkeypatch):
    monkeypatch.setenv("CLAUDE_KEY", "sk-ant-secret")
    rest = {"kind": "anthropic", "base_url": world.base_url, "api_key_env": "CLAUDE_KEY"}
    served = serve(
        targets=[world.target("chat-only", model="ok"), world.target("c", model="count@c", **rest)]
    )
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        count = client.messages.count_tokens
        assert count(model="c", messages=ASK).input_tokens == 42
        assert count(model="wye", messages=ASK).input_tokens == 42
        note = world.seen("count@c")[-1]
        sent = {"model": "count@c", "messages": ASK}
        assert (note["path"], note["body"]) == ("/v1/messages/count_tokens", sent)
        assert note["headers"]["x-api-key"] == "sk-ant-secret"
        assert served.http.get("/v1/decisions").json()["data"] == []
        with pytest.raises(anthropic.BadRequestError, match="chat-only counts no tokens"):
            count(model="chat-only", messages=ASK)
        with pytest.raises(anthropic.NotFoundError, match="there is no model 'who'"):
            count(model="who", messages=ASK)
        world.script("count@c", body={"tokens": "many"})
        with pytest.raises(anthropic.APIStatusError, match="no count of tokens"):
            count(model="c", messages=ASK)


def test_without_an_anthropic_target_nobody_counts_tokens(serve, world):
    served = serve(targets=[world.target("ok")])
    body = {"model": "wye", "messages": ASK}
    answer = served.http.post("/v1/messages/count_tokens", json=body)
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert "no target counts tokens" in answer.json()["error"]["message"]
