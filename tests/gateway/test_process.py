"""A gateway as a process of its own: killed, stopped, out of disk, without its port."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from wye.gateway.config import Config
from wye.gateway.gateway import Gateway
from wye.gateway.server import ServeError, _listen, serve
from wye.gateway.store import Store


def write_config(folder: Path, world, batch_seconds: float = 0.2) -> Path:
    path = folder / "wye.toml"
    path.write_text(
        f"""
[store]
path = "log.db"
batch_seconds = {batch_seconds}
max_pending = 20

[policies.quality]
kind = "quality"

[[targets]]
name = "ok"
base_url = "{world.base_url}"
"""
    )
    return path


QUESTION = {"model": "wye", "messages": [{"role": "user", "content": "hi"}]}


def ask(client: httpx.Client, text: str = "hi", **fields) -> httpx.Response:
    body = {**QUESTION, "messages": [{"role": "user", "content": text}], **fields}
    return client.post("/v1/chat/completions", json=body)


def test_a_killed_gateway_loses_at_most_its_last_batch_and_opens_again(
    running, tmp_path, world, eventually
):
    config = write_config(tmp_path, world)
    settled: set[str] = set()
    for _ in range(3):
        with running(config) as (process, url), httpx.Client(base_url=url, verify=False) as client:
            answered = [ask(client).headers["x-wye-decision"] for _ in range(10)]
            rows = client.get("/v1/decisions?limit=1000").json()["data"]
            assert settled <= {row["id"] for row in rows}
            settled |= set(answered)
            eventually(lambda: client.get("/healthz").json()["store"]["pending"] == 0)
            traffic = threading.Thread(target=_until_it_dies, args=(url,))
            traffic.start()
            eventually(partial(_holds_more_than, client, len(settled)))
            process.send_signal(signal.SIGKILL)
            traffic.join()
        store = Store(tmp_path / "log.db")
        with store.engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
            kept = set(connection.execute(sa.text("select id from decisions")).scalars())
        store.close()
        assert settled <= kept
        settled = kept


def _holds_more_than(client: httpx.Client, count: int) -> bool:
    return len(client.get("/v1/decisions?limit=1000").json()["data"]) > count


def _until_it_dies(url: str) -> None:
    with httpx.Client(base_url=url, verify=False) as client:
        while True:
            try:
                ask(client)
            except httpx.HTTPError:
                return


def test_a_stopped_gateway_finishes_its_answers_and_writes_everything(running, tmp_path, world):
    config = write_config(tmp_path, world, batch_seconds=60.0)
    config.write_text(config.read_text().replace('"ok"', '"slow-stream"'))
    with running(config) as (process, url):
        with (
            httpx.Client(base_url=url, verify=False) as client,
            client.stream(
                "POST",
                "/v1/chat/completions",
                json={
                    "model": "wye",
                    "stream": True,
                    "messages": [{"role": "user", "content": "a"}],
                },
            ) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(20) == -signal.SIGTERM
    store = Store(tmp_path / "log.db")
    with store.engine.connect() as connection:
        rows = connection.execute(sa.text("select status from outcomes")).scalars().all()
    store.close()
    assert rows == ["ok"]


STREAM = {**QUESTION, "stream": True}


def test_a_stopping_gateway_takes_nothing_new_and_says_so_while_its_streams_end(
    running, tmp_path, world, eventually
):
    config = write_config(tmp_path, world)
    config.write_text(config.read_text().replace('"ok"', '"slow-stream@drain"'))
    with (
        running(config) as (process, url),
        httpx.Client(base_url=url, verify=False, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as response,
        httpx.Client(base_url=url, verify=False) as other,
    ):
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: other.get("/healthz").status_code == 503)
        assert other.get("/healthz").json()["status"] == "draining"
        refused = ask(other)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) >= 1
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(20) == -signal.SIGTERM
        assert process.stderr.read() == ""


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_defect(running, tmp_path, world):
    with running(write_config(tmp_path, world)) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: 500"
            connection.sendall(f"{head}\r\n\r\n{{".encode())
        with httpx.Client(base_url=url, verify=False) as client:
            assert ask(client).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        assert "Traceback" not in process.stderr.read()


def test_what_outlasts_the_drain_is_cut_with_an_error_that_its_client_sees(
    running, tmp_path, world
):
    config = write_config(tmp_path, world)
    text = config.read_text().replace('"ok"', '"hang-midway@drain"')
    hanging = f'[[targets]]\nname = "hang@drain"\nbase_url = "{world.base_url}"\n'
    config.write_text(f"{text}\n{hanging}\n[server]\ndrain_seconds = 0.5\n")
    whole: list[httpx.Response] = []
    with (
        running(config) as (process, url),
        httpx.Client(base_url=url, verify=False, timeout=30) as client,
        httpx.Client(base_url=url, verify=False, timeout=30) as other,
    ):
        body = {**QUESTION, "model": "hang@drain"}
        waiting = threading.Thread(
            target=lambda: whole.append(other.post("/v1/chat/completions", json=body))
        )
        with client.stream(
            "POST", "/v1/chat/completions", json={**STREAM, "model": "hang-midway@drain"}
        ) as response:
            lines = response.iter_lines()
            said = [next(line for line in lines if line) for _ in range(4)]
            waiting.start()
            while not world.seen("hang@drain"):
                continue
            process.send_signal(signal.SIGTERM)
            *_, last = [line for line in lines if line]
        waiting.join(20)
        assert process.wait(20) == -signal.SIGTERM
        assert process.stderr.read() == ""
    assert "forty" not in "".join(said)
    assert "the gateway is stopping" in last
    assert '"error"' in last
    assert whole[0].status_code == 503
    assert whole[0].json()["error"]["code"] == "draining"
    assert all(world.seen(name)[0]["left"] for name in ("hang@drain", "hang-midway@drain"))
    store = Store(tmp_path / "log.db")
    with store.engine.connect() as connection:
        rows = connection.execute(sa.text("select status, error from outcomes")).all()
    store.close()
    assert {row.status for row in rows} == {"error"}
    assert all("the gateway is stopping" in row.error for row in rows)
    assert len(rows) == 2


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
def test_headers_that_trickle_in_do_not_hold_a_connection(running, tmp_path, world, before):
    config = write_config(tmp_path, world)
    config.write_text(config.read_text() + "\n[server]\nheader_seconds = 0.5\n")
    with running(config) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            if before:
                connection.sendall(before)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127")
            while connection.recv(65536):
                continue
        with httpx.Client(base_url=url, verify=False) as client:
            assert ask(client).status_code == 200


def test_a_full_disk_does_not_stop_the_serving_and_the_loss_is_told(
    running, tmp_path, world, eventually
):
    config = write_config(tmp_path, world)
    with (
        running(config, file_limit=400_000) as (_, url),
        httpx.Client(base_url=url, verify=False) as client,
    ):

        def full() -> bool:
            assert ask(client, "x" * 20_000).status_code == 200
            state = client.get("/healthz").json()["store"]
            return state["lost"] > 0 and state["error"] is not None

        eventually(full)
        health = client.get("/healthz")
        assert health.status_code == 200
        assert health.json()["status"] == "degraded"
        assert health.json()["store"]["error"]
        lost = re.search(r"^wye_store_lost_records (\S+)", client.get("/metrics").text, re.M)
        assert float(lost[1]) > 0
        assert client.get("/api/summary").json()["store"]["ok"] is False
        assert ask(client, "still here?", stream=True).text.endswith("data: [DONE]\n\n")
    store = Store(tmp_path / "log.db")
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
    store.close()


def test_a_taken_port_is_said_before_anything_else_is_done(tmp_path, world):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} is taken.*--port"):
            serve(write_config(tmp_path, world), port=port)
    assert not (tmp_path / "log.db").exists()


def test_an_address_that_is_not_ours_is_said(world):
    config = Config.model_validate(
        {"targets": [world.target("ok")], "server": {"open_to_network": True}}
    )
    with pytest.raises(ServeError, match=r"192\.0\.2\.1:8484 cannot be listened on"):
        serve(config, host="192.0.2.1")


def test_an_application_that_does_not_start_is_said(tmp_path, world, monkeypatch):
    async def start(_gateway):
        raise OSError("too many open files")

    monkeypatch.setattr(Gateway, "start", start)
    with pytest.raises(ServeError, match="failed to start"):
        serve(write_config(tmp_path, world), port=0)


async def test_small_responses_do_not_wait_for_an_acknowledgement():
    accepted: asyncio.Queue[bool] = asyncio.Queue()

    async def answer(_reader, writer):
        connection = writer.get_extra_info("socket")
        await accepted.put(bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    listener = _listen("127.0.0.1", 0)
    async with await asyncio.start_server(answer, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(accepted.get(), 10)
        writer.close()


def test_a_server_computes_in_the_thread_that_serves():
    # Threads that share small matrices, or a few texts, wait for each other by spinning.
    code = (
        "import os, numpy, threadpoolctl\n"
        "from wye.gateway.server import _keep_pauses_short\n"
        "_keep_pauses_short()\n"
        "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info()})\n"
        "print(os.environ['TOKENIZERS_PARALLELISM'])\n"
    )
    free = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    run = subprocess.run(
        [sys.executable, "-c", code], env=free, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split() == ["{1}", "false"], run.stderr
