"""The document at `/openapi.json` tells of every route, and every route does as it tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from wye.gateway.openapi.document import document

KEY = "a-long-random-string"


def test_the_document_has_every_route_and_no_other(serve, world):
    served = serve(targets=[world.target("ok")])
    routed = {
        (route.path.replace(":path", ""), method)
        for route in served.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = document(keys=False)["paths"]
    described = {(path, method.upper()) for path, methods in told.items() for method in methods}
    assert routed == described, "describe new routes in wye.gateway.openapi, and take old ones out"
    assert served.http.get("/openapi.json").json()["paths"] == json.loads(json.dumps(told))


def schemas_within(value):
    if isinstance(value, dict):
        if isinstance(value.get("schema"), dict):
            yield value["schema"]
        for inner in value.values():
            yield from schemas_within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas_within(inner)


def test_every_schema_is_one_and_every_operation_is_described():
    told = document(keys=True)
    for schema in [*schemas_within(told["paths"]), *told["components"]["schemas"].values()]:
        Draft202012Validator.check_schema(schema)
    for methods in told["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["responses"]


CONFIG = """
[server]
port = 0
access_key_env = "WYE_TEST_ACCESS"
max_body_mb = 0.1

[store]
path = "gateway.db"

[policies.quality]
kind = "quality"

[[targets]]
name = "ok"
base_url = "{url}"
speaks = ["chat", "responses", "embeddings"]
tags = ["tools", "vision", "audio"]
translate = true

[[targets]]
name = "claude"
kind = "anthropic"
base_url = "{url}"
model = "ok@claude"
tags = ["tools", "vision"]
translate = true
"""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
    "missing_required_header", "unsupported_method", "ignored_auth",
)  # fmt: skip


@pytest.fixture
def fuzzed(world, running, tmp_path, monkeypatch):
    """A gateway's own process, a client of it, and the decision of an answer that it gave."""
    monkeypatch.setenv("WYE_TEST_ACCESS", KEY)
    config = tmp_path / "wye.toml"
    config.write_text(CONFIG.format(url=world.base_url))
    with (
        running(config) as (_process, url),
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http,
    ):
        body = {"model": "wye", "messages": [{"role": "user", "content": "hi"}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        yield url, http, answer.headers["x-wye-decision"]


def known_to_be_there(told, decision):
    """The document with names that exist, so that more than refusals is met."""
    for path, methods in told["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "id" and "decisions" in path:
                    parameter["schema"]["examples"] = [decision]
                if parameter["name"] == "policy":
                    parameter["schema"]["examples"] = ["quality"]
                if parameter["name"] == "name":
                    parameter["schema"]["examples"] = ["index.html", "app.js"]
                if path == "/v1/models/{id}":
                    parameter["schema"]["examples"] = ["wye"]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            fields = body.get("schema", {}).get("properties", {})
            if "model" in fields:
                fields["model"] = {"type": "string", "enum": ["wye", "ok", "claude"]}
            if "decision" in fields:
                fields["decision"]["examples"] = [decision]
    return told


def test_no_request_of_the_document_makes_the_gateway_fail_or_break_its_word(fuzzed, tmp_path):
    url, http, decision = fuzzed
    told = known_to_be_there(http.get("/openapi.json").json(), decision)
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(told))
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        program, "run", path, "--url", url, "--header", f"Authorization: Bearer {KEY}",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing",
        "--max-examples", "5", "--seed", "1", "--generation-database", "none",
        "--request-timeout", "20", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    assert "Operations" in done.stdout
    assert http.get("/healthz").json()["status"] == "ok"
