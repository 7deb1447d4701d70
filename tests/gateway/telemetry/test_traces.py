"""Traces of real requests through a gateway's process, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai

from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.telemetry.trace import begin

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, INTERNAL, CLIENT = 2, 1, 3
MARKER = "the-password-is-swordfish"


def write(folder, world, collector) -> Path:
    path = folder / "wye.toml"
    path.write_text(
        f"""
[store]
path = "log.db"
[policies.quality]
kind = "quality"
[retries]
attempts = 0
[telemetry]
endpoint = "{collector.url}"
headers_env = "COLLECTOR_HEADERS"
service = "front"
[[targets]]
name = "best"
model = "ok"
base_url = "{world.base_url}"
quality = 0.9
price_in_per_mtok = 1.0
price_out_per_mtok = 2.0
"""
    )
    return path


def ask(url: str, model: str = "wye", *, sampled: bool = True, **fields) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": MARKER}], **fields}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def best(world) -> dict:
    return world.target("best", model="ok", quality=0.9)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_told_as_server_decision_and_call_under_the_clients_trace(
    running, tmp_path, world, collector, eventually, monkeypatch, stream
):
    monkeypatch.setenv("COLLECTOR_HEADERS", "x-tenant=blue, x-key=k1")
    before = len(world.seen("ok"))
    with running(write(tmp_path, world, collector)) as (_, url):
        answer = ask(url, temperature=0.3, max_completion_tokens=50, stream=stream)
        assert answer.status_code == 200
        eventually(lambda: len(collector.of(TRACE)) == 3)
    spans = {span.kind: span for span in collector.of(TRACE)}
    server, decision, call = spans[SERVER], spans[INTERNAL], spans[CLIENT]
    assert server.parent_id == PARENT
    assert decision.parent_id == call.parent_id == server.span_id
    assert server.name == "POST /v1/chat/completions"
    assert server.attributes["http.response.status_code"] == 200
    assert not server.error
    assert server.resource["service.name"] == "front"
    assert server.scope == "wye.gateway"
    assert server.started <= decision.started <= decision.ended <= call.started <= call.ended
    assert call.ended <= server.ended
    known = answer.headers["x-wye-decision"]
    assert server.attributes["wye.decision.id"] == decision.attributes["wye.decision.id"] == known
    assert decision.attributes["wye.candidates"] == ["best"]
    assert decision.attributes["wye.target"] == "best"
    assert decision.attributes["wye.propensity"] == 1.0
    assert decision.attributes["wye.candidates.cost_usd"][0] > 0
    told = call.attributes
    assert call.name == "chat ok"
    assert told[gen_ai.GEN_AI_OPERATION_NAME] == gen_ai.GenAiOperationNameValues.CHAT.value
    assert told[gen_ai.GEN_AI_PROVIDER_NAME] == gen_ai.GenAiProviderNameValues.OPENAI.value
    assert told[gen_ai.GEN_AI_REQUEST_MODEL] == told[gen_ai.GEN_AI_RESPONSE_MODEL] == "ok"
    assert told[gen_ai.GEN_AI_REQUEST_TEMPERATURE] == 0.3
    assert told[gen_ai.GEN_AI_REQUEST_MAX_TOKENS] == 50
    assert told[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] == 11
    assert told[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] == 6
    assert told[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] == ["stop"]
    assert told["server.address"] == "127.0.0.1"
    assert told["server.port"] == world.port
    assert told["wye.cost_usd"] == pytest.approx(11e-6 + 12e-6)
    assert (gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK in told) == stream
    assert gen_ai.GEN_AI_INPUT_MESSAGES not in told
    assert MARKER not in str(collector.spans)
    # The upstream is told of the very span that the collector has.
    (seen,) = world.seen("ok")[before:]
    assert seen["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert collector.headers[0]["x-tenant"] == "blue"
    assert collector.headers[0]["x-key"] == "k1"


def test_every_failed_call_is_a_span_of_its_own_with_what_went_wrong(
    serve, world, collector, eventually
):
    served = serve(
        targets=[best(world), world.target("broken", model="500", quality=0.99)],
        retries={"attempts": 0},
        telemetry={"endpoint": collector.url},
    )
    assert ask(served.url).status_code == 200
    eventually(lambda: len(collector.of(TRACE)) == 4)
    calls = [span for span in collector.of(TRACE) if span.kind == CLIENT]
    failed, answered = sorted(calls, key=lambda span: span.started)
    assert failed.error
    assert failed.attributes["error.type"] == "status"
    assert failed.attributes["wye.target"] == "broken"
    assert not answered.error
    assert answered.attributes["wye.target"] == "best"


def test_a_call_that_another_overtook_is_told_as_hedged(serve, world, collector, eventually):
    slow = world.target("slow", model="slow-stream", hedge_after=0.1)
    slow["deployments"] = [
        {"base_url": slow.pop("base_url"), "model": "hang"},
        {"base_url": world.base_url, "model": "ok"},
    ]
    served = serve(targets=[slow], telemetry={"endpoint": collector.url})
    for _ in range(6):
        assert ask(served.url).status_code == 200
    eventually(lambda: "hedged" in [c.attributes.get("error.type") for c in calls_of(collector)])
    for call in calls_of(collector):
        hangs = call.attributes["wye.deployment"] == "slow #1"
        assert (call.attributes.get("error.type") == "hedged") == hangs


def calls_of(collector) -> list:
    return [span for span in collector.of(TRACE) if span.kind == CLIENT]


def test_a_refused_request_and_a_cut_stream_are_errors(serve, world, collector, eventually):
    served = serve(
        targets=[best(world), world.target("cut-midway")], telemetry={"endpoint": collector.url}
    )
    assert ask(served.url, "nobody").status_code == 404
    assert ask(served.url, "cut-midway", stream=True).status_code == 200
    eventually(lambda: len(collector.of(TRACE)) == 4)
    servers = [span for span in collector.of(TRACE) if span.kind == SERVER]
    assert {s.attributes["http.response.status_code"]: s.error for s in servers} == {
        404: False,
        200: True,
    }
    (call,) = [span for span in collector.of(TRACE) if span.kind == CLIENT]
    assert call.attributes["error.type"] == "cut"


def test_what_was_asked_goes_along_only_where_it_is_wanted_and_redacted(
    serve, world, collector, eventually
):
    served = serve(
        targets=[best(world)],
        telemetry={"endpoint": collector.url, "content": True},
        logs={"redact": ["email"]},
    )
    served.ask(text="I am ada@example.org")
    eventually(lambda: len(collector.spans) == 3)
    (call,) = [span for span in collector.spans if span.kind == CLIENT]
    assert call.attributes[gen_ai.GEN_AI_INPUT_MESSAGES] == (
        '[{"role": "user", "parts": [{"type": "text", "content": "I am [email]"}]}]'
    )


def test_a_client_that_does_not_sample_is_not_told_and_the_upstream_hears_it(
    serve, world, collector
):
    before = len(world.seen("ok"))
    served = serve(targets=[best(world)], telemetry={"endpoint": collector.url})
    assert ask(served.url, sampled=False).status_code == 200
    served.gateway.onlookers.traces.close()
    assert collector.spans == []
    (seen,) = world.seen("ok")[before:]
    assert seen["traceparent"].startswith(f"00-{TRACE}-")
    assert seen["traceparent"].endswith("-00")


def test_a_stopping_gateway_sends_what_it_still_has(running, tmp_path, world, collector):
    with running(write(tmp_path, world, collector)) as (process, url):
        for _ in range(20):
            assert ask(url).status_code == 200
        process.terminate()
        process.wait(20)
    assert len(collector.of(TRACE)) == 60


def test_a_collector_that_is_gone_disturbs_nobody_and_is_counted(
    serve, world, collector, eventually
):
    served = serve(targets=[best(world)], telemetry={"endpoint": collector.url})
    collector.stop()
    assert [ask(served.url).status_code for _ in range(5)] == [200] * 5
    traces = served.gateway.onlookers.traces
    traces.close()
    eventually(lambda: traces.dropped + traces.sent == 5)
    assert traces.sent == 0
    collector.start()


def test_without_the_table_nothing_of_opentelemetry_is_imported(tmp_path):
    script = """
import sys
from wye.gateway.app import create_app
from wye.gateway.config import Config
create_app(Config.model_validate({"targets": [{"name": "a", "base_url": "http://127.0.0.1:1"}],
    "policies": {"quality": {"kind": "quality"}}, "store": {"path": sys.argv[1]}}))
found = [m for m in sys.modules if m.startswith(("opentelemetry", "google.protobuf"))]
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_table_says_what_to_install(tmp_path):
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from wye.gateway.config import Config, ConfigError
from wye.gateway.gateway import build
try:
    build(Config.model_validate({"targets": [{"name": "a", "base_url": "http://127.0.0.1:1"}],
        "telemetry": {}, "store": {"path": sys.argv[1]}}))
except ConfigError as error:
    assert "pip install 'wye[otel]'" in str(error), error
else:
    raise AssertionError("it was built")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_table_says_what_to_write():
    target = '[[targets]]\nname = "a"\nbase_url = "http://127.0.0.1:1"\n'
    with pytest.raises(ConfigError, match="did you mean `endpoint`"):
        parse_config(f'[telemetry]\nendpont = "http://x"\n{target}')
    with pytest.raises(ConfigError, match="sample"):
        parse_config(f"[telemetry]\nsample = 2.0\n{target}")


@given(st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
def test_no_traceparent_breaks_anything(given_header):
    trace = begin({"traceparent": given_header}, "POST", "/", 1.0)
    assert 0 < trace.trace_id < 1 << 128
    assert trace.sampled or trace.parent_id


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.integers(0, 255))
def test_a_right_traceparent_is_continued(trace_id, parent, flags):
    header = f"00-{trace_id:032x}-{parent:016x}-{flags:02x}"
    trace = begin({"traceparent": header, "tracestate": "a=b"}, "POST", "/", 0.0)
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (trace_id, parent, flags % 2 == 1)
    assert trace.state == "a=b"


def test_the_share_of_fresh_traces_is_as_configured():
    kept = sum(begin({}, "POST", "/", 0.25).sampled for _ in range(4000))
    # Six standard deviations of a binomial of 4000 draws at 1/4.
    assert abs(kept - 1000) < 6 * (4000 * 0.25 * 0.75) ** 0.5
