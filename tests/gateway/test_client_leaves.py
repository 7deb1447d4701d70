"""A client that hangs up takes the upstream's work with it, and the decision says so."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from wye.gateway.breaker import State


def hang_up_after(served, model, *, stream, enough):
    """Send a request over a bare socket, read until `enough` holds of what came, and close."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps(
        {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
    with socket.create_connection((host, int(port)), timeout=0.05) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        got = b""
        deadline = time.monotonic() + 10
        while not enough(got):
            assert time.monotonic() < deadline, f"only this came: {got!r}"
            with contextlib.suppress(TimeoutError):
                got += connection.recv(4096)


@pytest.mark.parametrize(
    ("model", "stream", "pieces"),
    [("hang", False, 0), ("hang", True, 0), ("hang-midway", True, 4), ("slow-stream", True, 2)],
)
def test_the_upstreams_call_is_cancelled(serve, world, eventually, model, stream, pieces):
    name = f"{model}@{stream}"
    served = serve(targets=[world.target(name)])

    def enough(got):
        return got.count(b"data: ") >= pieces and len(world.seen(name)) == 1

    hang_up_after(served, name, stream=stream, enough=enough)
    eventually(lambda: world.seen(name)[0]["left"])
    eventually(lambda: "wye_requests_in_flight 0.0" in served.http.get("/metrics").text)
    [decision] = served.http.get("/v1/decisions").json()["data"]
    assert decision["status"] == "cancelled"
    assert served.gateway.breakers[name].state is State.CLOSED


def test_a_probe_that_was_left_frees_its_place(serve, world, eventually):
    served = serve(targets=[world.target("hang@probe")], breaker={"failures": 1, "cooldown": 0.05})
    breaker = served.gateway.breakers["hang@probe"]
    breaker.failed()
    eventually(lambda: breaker.state is State.HALF_OPEN)
    hang_up_after(served, "wye", stream=False, enough=lambda _: not breaker.available)
    eventually(lambda: breaker.available)
