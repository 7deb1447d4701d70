"""The embedded model as targets of the gateway: a real model, no key, no network."""

from __future__ import annotations

import os
import signal
import threading

import anthropic
import openai
import pytest

from wye.gateway.pool import STRATEGIES, WeightsError, weights

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def served(tmp_path_factory, serving):
    pytest.importorskip("xllamacpp")
    try:
        weights.locate()
    except WeightsError as error:
        pytest.skip(str(error))
    from wye.gateway.config import Config

    folder = tmp_path_factory.mktemp("embedded")
    prices = {"price_in_per_mtok": 0.01, "price_out_per_mtok": 0.02, "context": 2048}
    config = Config.model_validate(
        {
            "targets": [
                {"name": name, "kind": "embedded", "translate": True, **prices}
                for name in STRATEGIES
            ],
            "policies": {"quality": {"kind": "quality"}},
            "store": {"path": str(folder / "log.db")},
        }
    )
    served = serving(config)
    yield served
    served.stop()


def test_every_strategy_answers_the_official_client_with_its_tokens(served):
    for name in STRATEGIES:
        raw = served.openai.chat.completions.with_raw_response.create(
            model=name, messages=MESSAGES, temperature=0, max_tokens=16, seed=1
        )
        answer = raw.parse()
        assert raw.headers["x-wye-target"] == name
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage.prompt_tokens > 0
        outcome = served.http.get(f"/v1/decisions/{raw.headers['x-wye-decision']}").json()[
            "outcome"
        ]
        assert outcome["tokens_estimated"] is False
        expected = (answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens) / 1e8
        assert outcome["cost_usd"] == pytest.approx(expected)


def test_the_client_of_anthropic_talks_with_the_embedded_model(served):
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        ask = {"model": "direct", "max_tokens": 12, "messages": MESSAGES, "temperature": 0}
        answer = client.messages.create(**ask)
        assert answer.content[0].text
        assert answer.stop_reason in ("end_turn", "max_tokens")
        assert 0 < answer.usage.output_tokens <= 12
        with client.messages.stream(**ask) as stream:
            assert "".join(stream.text_stream) == answer.content[0].text
            assert stream.get_final_message().usage == answer.usage


def test_a_greedy_answer_streams_as_it_comes_whole(served):
    whole = served.openai.chat.completions.create(
        model="direct", messages=MESSAGES, temperature=0, max_tokens=20
    )
    pieces = list(
        served.openai.chat.completions.create(
            model="direct",
            messages=MESSAGES,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert said == whole.choices[0].message.content
    assert len(pieces) > 4
    assert pieces[-1].usage == whole.usage


def test_requests_in_parallel_share_the_one_model(served):
    answers = []

    def ask(i):
        answers.append(served.ask("direct", text=f"Say the number {i}.", max_tokens=5))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [200] * 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "function"}]}, "calls no tools"),
        ({"n": 2}, "gives one choice"),
        ({"response_format": {"type": "json_object"}}, "plain text only"),
        ({"temperature": 3}, "expected 0 to 2"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "Paris"}]}, "ends with"),
    ],
)
def test_what_the_model_cannot_do_is_said_and_not_ignored(served, fields, said):
    with pytest.raises(openai.BadRequestError, match=said):
        served.openai.chat.completions.create(**{"model": "direct", "messages": MESSAGES, **fields})


def test_a_model_whose_process_died_is_started_again(served, eventually):
    shared = served.gateway.lanes["direct"].deployments[0].upstream._own._model
    pid = shared._model.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not shared._model.running)
    answer = served.ask("direct", max_tokens=5)
    assert answer.status_code == 200
    assert shared._model.pid != pid
