"""`wye serve --ray`: a process that serves through Ray, and drains when it is told to stop."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from wye.cli import app
from wye.gateway.schema import connect, decisions

pytestmark = pytest.mark.ray
CONFIG = """
[server]
drain_seconds = 2

[store]
path = "{folder}/gateway.db"

[policies.quality]
kind = "quality"

[[targets]]
name = "ok@ray"
base_url = "http://127.0.0.1:{port}/v1"
"""
BODY = {"model": "wye", "messages": [{"role": "user", "content": "6 x 7?"}]}


def told(process: subprocess.Popen, words: str, seconds: float) -> str:
    """The line with these words, once the process has said it."""
    deadline, said = time.monotonic() + seconds, ""
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stderr], [], [], 1.0)[0]:
            line = process.stderr.readline()
            said += line
            if words in line:
                return line
    raise AssertionError(f"it did not say {words!r}: {said}")


def test_it_serves_and_leaves_nothing_unwritten_when_it_is_stopped(tmp_path, upstream, free_port):
    pytest.importorskip("ray", reason="Ray is not installed")
    config, port = tmp_path / "wye.toml", free_port
    config.write_text(CONFIG.format(folder=tmp_path, port=upstream))
    command = ["serve", "--ray", "--replicas", "1", "--config", config, "--port", str(port)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [Path(sys.executable).with_name("wye"), *command],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        line = told(process, "replicas on Ray", 90)
        url = f"http://127.0.0.1:{port}"
        assert url in line
        for _ in range(3):
            answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=30)
            assert answer.headers["x-wye-target"] == "ok@ray"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    engine = connect(tmp_path / "gateway.db")
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(decisions)) == 3
    engine.dispose()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/livez")


def test_replicas_are_of_ray_alone(tmp_path):
    ran = CliRunner().invoke(app, ["serve", "--replicas", "3"])
    assert ran.exit_code != 0
    assert "--replicas needs --ray" in ran.output + str(ran.exception)


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = CliRunner().invoke(app, ["serve", "--ray", "--config", str(tmp_path / "wye.toml")])
    assert ran.exit_code != 0
    assert "wye[ray]" in ran.output + str(ran.exception)
