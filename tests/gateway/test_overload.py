"""More requests than there is room for, and clients that hold a place by being slow."""

from __future__ import annotations

import json
import socket
import threading

import pytest

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5000\r\n\r\n"


def connect(served):
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    # So small that little of an answer that nobody reads fits in between.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return connection


def received(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def in_thread(served, **fields):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(served.ask(**fields)))
    thread.start()
    return thread, answers


def test_beyond_its_places_the_gateway_refuses_before_it_reads_the_body(serve, world, eventually):
    served = serve(
        targets=[world.target("slow-stream@full")], server={"max_in_flight": 1, "body_seconds": 30}
    )
    thread, answers = in_thread(served, stream=True)
    eventually(lambda: served.gateway.places.running == 1)
    with connect(served) as connection:
        connection.sendall(HEAD)
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: " in head.lower()
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
    assert 'wye_rejected_requests_total{code="429"} 1.0' in served.http.get("/metrics").text
    assert served.http.get("/healthz").json()["requests"]["running"] == 1
    thread.join()
    assert answers[0].text.endswith("data: [DONE]\n\n")
    eventually(lambda: served.gateway.places.running == 0)
    assert served.ask(stream=True).status_code == 200


def test_a_queue_holds_requests_until_there_is_room(serve, world, eventually):
    served = serve(
        targets=[world.target("slow-stream@queue")],
        server={"max_in_flight": 1, "queue": 1, "queue_seconds": 20},
    )
    first = in_thread(served, stream=True)
    eventually(lambda: served.gateway.places.running == 1)
    second = in_thread(served, stream=True)
    eventually(lambda: served.gateway.places.waiting == 1)
    assert served.ask().status_code == 429
    for thread, answers in (first, second):
        thread.join()
        assert answers[0].status_code == 200
    assert served.gateway.places.waiting == 0


def test_the_wait_in_the_queue_has_an_end(serve, world, eventually):
    served = serve(
        targets=[world.target("slow-stream@short")],
        server={"max_in_flight": 1, "queue": 1, "queue_seconds": 0.1},
    )
    thread, answers = in_thread(served, stream=True)
    eventually(lambda: served.gateway.places.running == 1)
    refused = served.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    thread.join()
    assert answers[0].status_code == 200


@pytest.mark.parametrize("sent", [b"", b'{"model": "wye", '])
def test_a_body_that_does_not_come_ends_in_408(serve, world, eventually, sent):
    served = serve(targets=[world.target("ok")], server={"body_seconds": 0.3})
    with connect(served) as connection:
        connection.sendall(HEAD + sent)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "body_timeout"
    eventually(lambda: served.gateway.places.running == 0)
    assert served.ask().status_code == 200


def test_a_client_that_reads_nothing_lets_go_of_the_upstream(serve, world, eventually):
    served = serve(targets=[world.target("long-stream@unread")], server={"send_seconds": 0.3})
    body = json.dumps(
        {"model": "wye", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    with connect(served) as connection:
        connection.sendall(HEAD.replace(b"5000", str(len(body)).encode()) + body)
        eventually(lambda: world.seen("long-stream@unread")[-1:])
        eventually(lambda: world.seen("long-stream@unread")[0]["left"])
        eventually(lambda: served.gateway.places.running == 0)
    [decision] = served.http.get("/v1/decisions").json()["data"]
    assert decision["status"] == "cancelled"


def test_headers_that_are_too_large_are_refused(serve, world):
    served = serve(targets=[world.target("ok")])
    with connect(served) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-long: " + b"x" * 100_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
