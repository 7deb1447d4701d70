"""The official client against a real gateway before a real upstream process."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

MESSAGES: Any = [{"role": "user", "content": "What is 6 x 7?"}]
ANSWER = "The answer is forty-two."


@pytest.fixture
def served(serve, world):
    return serve(
        targets=[
            world.target("cheap", model="ok@cheap", quality=0.6),
            world.target("good", model="ok@good", quality=0.9, price_out_per_mtok=20.0),
        ],
        policies={
            "balanced": {"kind": "utility", "cost_weight": 1e6},
            "quality": {"kind": "quality"},
        },
    )


def test_the_official_client_gets_an_answer_and_the_decision_in_headers(served):
    raw = served.openai.chat.completions.with_raw_response.create(model="wye", messages=MESSAGES)
    answer = raw.parse()
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.total_tokens == 17
    assert raw.headers["x-wye-target"] == "cheap"
    decision = served.http.get(f"/v1/decisions/{raw.headers['x-wye-decision']}").json()
    assert decision["target"] == "cheap"
    assert decision["outcome"]["input_tokens"] == 11


def test_the_official_client_gets_a_stream_with_the_same_headers(served):
    with served.openai.chat.completions.with_streaming_response.create(
        model="wye", messages=MESSAGES, stream=True
    ) as raw:
        assert raw.headers["x-wye-target"] == "cheap"
        assert raw.headers["content-type"].startswith("text/event-stream")
        decision_id = raw.headers["x-wye-decision"]
        pieces = list(raw.parse())
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == ANSWER
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert all(p.usage is None for p in pieces)
    outcome = served.http.get(f"/v1/decisions/{decision_id}").json()["outcome"]
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (11, 6)
    assert outcome["tokens_estimated"] is False
    assert 0 < outcome["first_byte_s"] <= outcome["latency_s"]


async def test_the_asynchronous_client_streams_too(served):
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
        stream = await client.chat.completions.create(model="wye", messages=MESSAGES, stream=True)
        said = [piece.choices[0].delta.content or "" async for piece in stream]
    assert "".join(said) == ANSWER


def test_usage_comes_at_the_end_of_a_stream_where_it_was_asked_for(served):
    pieces = list(
        served.openai.chat.completions.create(
            model="wye",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens == 6


def test_a_policy_and_a_target_can_be_asked_for_by_name(served):
    assert served.ask("wye/quality").headers["x-wye-target"] == "good"
    assert served.ask("wye/balanced").headers["x-wye-target"] == "cheap"
    straight = served.ask("good")
    assert straight.headers["x-wye-target"] == "good"
    assert served.decision(straight)["policy_name"] == "direct"


def test_models_lists_wye_its_policies_and_every_target(served):
    names = [model.id for model in served.openai.models.list()]
    assert names == ["wye", "wye/balanced", "wye/quality", "cheap", "good"]


def test_an_unknown_model_is_a_404_that_names_the_known_ones(served):
    with pytest.raises(openai.NotFoundError) as caught:
        served.openai.chat.completions.create(model="wye/fast", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    for name in ("wye/balanced", "cheap", "good"):
        assert name in str(caught.value)


def test_everything_but_the_model_reaches_the_upstream_untouched(served, world):
    extra = {
        "temperature": 0.25,
        "seed": 7,
        "top_k": 40,
        "metadata": {"nested": [1, None, {"é": "😀"}]},
        "messages": [
            {"role": "system", "content": "be brief", "name": "boss"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "custom": True},
        ],
    }
    served.ask("cheap", **extra)
    body = world.seen("ok@cheap")[-1]["body"]
    assert body == {"model": "ok@cheap", **extra}


def test_other_stream_options_are_kept_beside_the_usage_that_wye_asks_for(served, world):
    served.ask("cheap", stream=True, stream_options={"include_obfuscation": False})
    body = world.seen("ok@cheap")[-1]["body"]
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_the_answer_is_passed_on_whole(served):
    answer = served.ask("cheap").json()
    assert answer["system_fingerprint"] == "fp_outside"
    assert answer["model"] == "ok@cheap"


def test_cost_is_tokens_times_prices_and_the_baseline_is_the_best_model(served):
    outcome = served.decision(served.ask("wye/balanced"))["outcome"]
    assert outcome["cost_usd"] == pytest.approx((11 * 1.0 + 6 * 2.0) / 1e6)
    assert outcome["baseline_usd"] == pytest.approx((11 * 1.0 + 6 * 20.0) / 1e6)


def test_tokens_are_estimated_and_marked_where_the_upstream_tells_none(serve, world):
    served = serve(targets=[world.target("no-usage")])
    for stream in (False, True):
        outcome = served.decision(served.ask(stream=stream))["outcome"]
        assert outcome["tokens_estimated"] is True
        assert outcome["input_tokens"] == 4
        assert outcome["output_tokens"] == 6


def test_a_stream_without_done_but_with_a_finish_is_whole(serve, world):
    served = serve(targets=[world.target("no-done")])
    answer = served.ask(stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert served.decision(answer)["outcome"]["status"] == "ok"


def test_the_choice_is_made_on_what_the_person_asks_last(served):
    answer = served.ask(
        messages=[
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "well"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            },
            {"role": "assistant", "content": None, "tool_calls": []},
        ]
    )
    assert served.decision(answer)["text"] == "one\ntwo"


def test_streams_are_written_as_they_come(serve, world):
    served = serve(targets=[world.target("slow-stream")])
    body = {"model": "wye", "messages": MESSAGES, "stream": True}
    with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        assert first["choices"][0]["delta"]["role"] == "assistant"
        assert served.http.get("/healthz").status_code == 200
        running = served.http.get("/metrics").text
        assert "wye_requests_in_flight 1.0" in running
        assert sum(1 for line in lines if line.startswith("data: ")) == 8


def test_tools_pictures_structured_output_and_log_probabilities_pass_untouched(serve, world):
    served = serve(targets=[world.target("all", model="ok@all", tags=["tools", "vision"])])
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AA", "detail": "low"},
    }
    schema = {"name": "out", "strict": True, "schema": {"type": "object", "properties": {}}}
    body = {
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "a cat"},
        ],
    }
    answer = served.openai.chat.completions.create(model="wye", **body)
    assert answer.choices[0].message.content == ANSWER
    assert world.seen("ok@all")[-1]["body"] == {"model": "ok@all", **body}
