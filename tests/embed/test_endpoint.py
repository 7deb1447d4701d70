"""The endpoint embedder against a real server on this machine, which embeds with wordllama."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from wye.embed import EmbedError, EndpointEmbedder, StaticEmbedder, get_embedder


@dataclass
class Server:
    """What the server was asked, and what it shall do next."""

    base_url: str = ""
    requests: list[tuple[int, str | None]] = field(default_factory=list)
    failures: list[Response] = field(default_factory=list)

    async def embeddings(self, request: Request) -> Response:
        body = await request.json()
        texts = body["input"]
        self.requests.append((len(texts), request.headers.get("authorization")))
        if self.failures:
            return self.failures.pop(0)
        if body["model"] != "static" or not all(texts):
            return JSONResponse({"error": {"message": "no such model or empty input"}}, 400)
        vectors = StaticEmbedder().embed(texts).tolist()
        rows = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
        usage = {"prompt_tokens": sum(len(t.split()) for t in texts)}
        return JSONResponse({"data": rows[::-1], "usage": usage})


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    state = Server()
    app = Starlette(routes=[Route("/v1/embeddings", state.embeddings, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    state.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    yield state
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(running: Server) -> Server:
    running.requests.clear()
    running.failures.clear()
    return running


def test_vectors_come_back_in_order_and_in_batches(server: Server) -> None:
    texts = [f"question {i}" for i in range(10)]
    made = EndpointEmbedder(server.base_url, "static", batch_size=4).embed(texts)
    np.testing.assert_allclose(made, StaticEmbedder().embed(texts), atol=1e-5)
    assert [n for n, _ in server.requests] == [4, 4, 2]


def test_an_empty_text_is_the_zero_vector_and_is_not_sent(server: Server) -> None:
    embedder = get_embedder(f"endpoint:{server.base_url}#static")
    made = embedder.embed(["", "river", " "])
    assert made.any(axis=1).tolist() == [False, True, False]
    assert embedder.dim == 256
    assert [n for n, _ in server.requests] == [1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(server: Server, status: int) -> None:
    busy = PlainTextResponse("busy", status, headers={"retry-after": "0.01"})
    server.failures = [busy, busy]
    made = EndpointEmbedder(server.base_url, "static").embed(["river"])
    np.testing.assert_allclose(made, StaticEmbedder().embed(["river"]), atol=1e-5)
    assert len(server.requests) == 3


def test_an_endpoint_that_stays_busy_is_named(server: Server) -> None:
    busy = PlainTextResponse("too many", 429, headers={"retry-after": "0.01"})
    server.failures = [busy] * 9
    with pytest.raises(EmbedError, match=r"failed 2 times.*429: too many"):
        EndpointEmbedder(server.base_url, "static", retries=1).embed(["river"])
    assert len(server.requests) == 2


def test_a_refusal_is_not_repeated(server: Server) -> None:
    with pytest.raises(EmbedError, match=r"refused: HTTP 400.*no such model"):
        EndpointEmbedder(server.base_url, "other").embed(["river"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (PlainTextResponse("hello"), "else than JSON"),
        (JSONResponse({"data": "none"}), "without data"),
        (JSONResponse([1]), "without data"),
        (JSONResponse({"data": []}), "shape"),
    ],
)
def test_nonsense_is_named(server: Server, answer: Response, message: str) -> None:
    server.failures = [answer]
    with pytest.raises(EmbedError, match=message):
        EndpointEmbedder(server.base_url, "static").embed(["river"])


def test_nobody_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EmbedError, match=r"failed 1 times.*ConnectError"):
        EndpointEmbedder(f"http://127.0.0.1:{port}/v1", "static", retries=0).embed(["river"])


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = EndpointEmbedder(server.base_url, "static", "WYE_TEST_KEY")
    monkeypatch.delenv("WYE_TEST_KEY", raising=False)
    with pytest.raises(EmbedError, match="WYE_TEST_KEY is not set"):
        embedder.embed(["river"])
    monkeypatch.setenv("WYE_TEST_KEY", "secret")
    embedder.embed(["river"])
    assert server.requests == [(1, "Bearer secret")]
    assert "secret" not in embedder.name + embedder.spec + repr(embedder)


def test_spending_is_counted_by_the_reported_tokens(server: Server) -> None:
    embedder = EndpointEmbedder(server.base_url, "static", price_per_mtok=2.0)
    embedder.embed(["four words are here", "and two"])
    assert embedder.spent_usd == pytest.approx(6 * 2.0 / 1e6)
