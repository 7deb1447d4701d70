"""`wye probe` against a real server on this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner, Result

from wye.checks.query.probe_programs import format_program, string_program
from wye.cli import app
from wye.query.chat_models.base import ChatModel, ChatModelError
from wye.query.instruction_adherence import ProbeRun
from wye.query.instruction_adherence.probing import LIVENESS


@contextmanager
def serving(models: dict[str, ChatModel], *, capital: str = "Paris") -> Iterator[str]:
    """An OpenAI-compatible server in front of chat models."""

    async def listed(request: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": name} for name in models]})

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        asked = body["messages"]
        alive = asked[-1]["content"] == LIVENESS
        text = capital if alive else models[body["model"]].generate(asked).text
        return JSONResponse(
            {
                "model": f"{body['model']}-served",
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 2, "completion_tokens": 3},
            }
        )

    site = Starlette(
        routes=[
            Route("/v1/models", listed),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(site, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving({"format": format_program(), "string": string_program()}) as url:
        yield url


def probe(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["probe", *(str(w) for w in words)], catch_exceptions=True)


def test_a_table_is_drawn_saved_and_compared(endpoint: str, tmp_path: Path) -> None:
    saved = tmp_path / "format.json"
    drawn = probe(endpoint, "--model", "format", "--repeats", "2", "--save", saved)
    assert drawn.exit_code == 0, drawn.output
    assert "format conversion" in drawn.stdout
    assert "8/8" in drawn.stdout
    assert "format-served" in drawn.stdout
    run = ProbeRun.load(saved)
    assert (run.model, run.repeats, len(run.results)) == ("format", 2, 40)

    same = probe(endpoint, "--model", "format", "--repeats", "2", "--against", saved, "--json")
    assert same.exit_code == 0
    told = json.loads(same.stdout)
    assert told["capabilities"]["format_conversion"]["passes"] == 8
    assert not any(d["flagged"] for d in told["drift"])

    other = probe(endpoint, "--model", "string", "--repeats", "2", "--against", saved)
    assert other.exit_code == 1, "a model that changed ends with 1"
    assert "changed" in other.stdout


def test_the_only_model_needs_no_name() -> None:
    with serving({"string": string_program()}) as url:
        ended = probe(url, "--json", "--prior", "published")
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["run"]["model"] == "string"
    assert told["capabilities"]["string_manipulation"]["mean"] == pytest.approx((4 + 0.24) / 6)


def test_an_endpoint_that_cannot_be_probed_is_named(endpoint: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    for words, message in [
        ((dead,), "does not answer"),
        ((dead, "--model", "x"), "is the endpoint up"),
        ((endpoint,), "give one as --model"),
        ((endpoint, "--model", "format", "--prior", "x"), "prior is 'x'"),
        ((endpoint, "--model", "format", "--against", tmp_path / "none"), "no run of probes"),
        (("nowhere", "--model", "x"), "expected http"),
    ]:
        ended = probe(*words)
        assert ended.exit_code != 0
        assert message in str(ended.exception), words


def test_a_model_that_is_not_alive_is_not_probed() -> None:
    with serving({"format": format_program()}, capital="Rome") as url:
        ended = probe(url)
    assert isinstance(ended.exception, ChatModelError)
    assert "'Rome'" in str(ended.exception)
