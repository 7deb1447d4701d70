"""A real gateway with real traffic, and a real Chromium that looks at it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PRICES = {"small": (0.1, 0.4), "large": (2.0, 8.0)}


class Served:
    """An ASGI app on a loopback port, in a thread of its own."""

    def __init__(self, app: Any, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start; its log says why")
            time.sleep(0.01)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """Stop; a second time does nothing."""
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive(), "the server did not stop within 20 s"


def answer_of(model: str, prompt: str) -> str:
    """What the upstream answers: it repeats the prompt, hostile or not."""
    return f"{model} heard: {prompt}"


class Switch:
    """Turns the upstream off for a while, as an outage does."""

    def __init__(self) -> None:
        self.on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True


SWITCH = Switch()


@pytest.fixture
def upstream_switch() -> Switch:
    return SWITCH


async def _complete(request: Request) -> Response:
    if not SWITCH.on:
        return JSONResponse({"error": {"message": "the upstream is down"}}, 503)
    body = await request.json()
    text = answer_of(body["model"], body["messages"][-1]["content"])
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    head = {"id": "c-1", "created": int(time.time()), "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(
            {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    async def pieces() -> Any:
        kind = {**head, "object": "chat.completion.chunk"}
        for start in range(0, len(text), 7):
            delta = {"index": 0, "delta": {"content": text[start : start + 7]}}
            yield f"data: {json.dumps({**kind, 'choices': [delta]})}\n\n"
            await asyncio.sleep(0.01)
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps({**kind, 'choices': [last]})}\n\n"
        yield f"data: {json.dumps({**kind, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    """Base URL of an OpenAI-compatible endpoint whose models repeat what they hear."""
    app = Starlette(routes=[Route("/v1/chat/completions", _complete, methods=["POST"])])
    server = Served(app)
    yield f"{server.url}/v1"
    server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serve an ASGI app until the test is over and its pages are closed.

    A page asks its gateway again and again: one that stopped before it would put an error in its
    console.
    """
    started: list[Served] = []

    def start(app: Any, port: int = 0) -> Served:
        started.append(Served(app, port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def new_app(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The ASGI app of a gateway over the upstream.

    `new_app(store=path, store_table=toml, **of_the_app)`: further lines of the table [store], and
    arguments of `create_app`.
    """
    from wye.gateway.app import create_app
    from wye.gateway.config_file import parse_config

    def new(store: Path | None = None, store_table: str = "", **of_the_app: Any) -> Any:
        store = store or tmp_path_factory.mktemp("gateway") / "gateway.db"
        targets = "".join(
            f'[[targets]]\nname = "{name}"\nbase_url = "{upstream}"\nquality = {quality}\n'
            f"price_in_per_mtok = {PRICES[name][0]}\nprice_out_per_mtok = {PRICES[name][1]}\n"
            f'description = "the {name} one"\n'
            for name, quality in (("small", 0.7), ("large", 0.9))
        )
        policies = (
            '[policies.cheap]\nkind = "utility"\ncost_weight = 1000.0\n'
            '[policies.best]\nkind = "quality"\n'
        )
        text = (
            f'default_policy = "cheap"\n{targets}{policies}'
            f"[store]\npath = {json.dumps(str(store))}\nbatch_seconds = 0.05\n{store_table}"
        )
        return create_app(parse_config(text), **of_the_app)

    return new


@pytest.fixture
def start_gateway(
    new_app: Callable[..., Any], serve: Callable[..., Served]
) -> Callable[..., Served]:
    """Start a gateway over the upstream, for one test: `start_gateway(store, port, **more)`."""

    def start(store: Path | None = None, port: int = 0, **of_new_app: Any) -> Served:
        return serve(new_app(store, **of_new_app), port)

    return start


@pytest.fixture(scope="session")
def share_gateway(new_app: Callable[..., Any]) -> Callable[..., Any]:
    """A gateway for several tests: `with share_gateway(**of_new_app) as server`."""

    @contextmanager
    def shared(**of_new_app: Any) -> Iterator[Served]:
        server = Served(new_app(**of_new_app))
        yield server
        server.stop()

    return shared


def ask(url: str, prompt: str, model: str = "wye") -> httpx.Response:
    """One chat request, as a client makes it."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).raise_for_status()


@pytest.fixture(scope="session")
def send() -> Callable[..., httpx.Response]:
    return ask


@pytest.fixture(scope="session")
def busy(share_gateway: Callable[..., Any]) -> Iterator[Served]:
    """A gateway that answered twenty prompts, two of them hostile, and got some feedback.

    Tests count its figures, so none asks it anything more: that is what `open_gateway` is for.
    """
    with share_gateway() as server:
        hostile = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>"
        for k in range(18):
            model = "wye" if k % 3 else "wye/best"
            response = ask(server.url, f"How much is {k} and {k}?", model)
            if k % 2:
                feedback = {"decision": response.headers["x-wye-decision"], "quality": k % 4 // 2}
                httpx.post(f"{server.url}/v1/feedback", json=feedback).raise_for_status()
        ask(server.url, hostile)
        ask(server.url, f"{hostile} again", "large")
        wait_for_requests(server.url, 20)
        yield server


@pytest.fixture(scope="session")
def open_gateway(share_gateway: Callable[..., Any]) -> Iterator[Served]:
    """A gateway that any test may ask; its figures are nobody's to count."""
    with share_gateway() as server:
        for prompt in ("Who are you?", "What is two and two?"):
            ask(server.url, prompt)
        yield server


def wait_for_requests(url: str, number: int) -> None:
    """The store writes in batches: wait until the summary counts `number` requests."""
    deadline = time.monotonic() + 10
    while (found := httpx.get(f"{url}/api/summary").json()["requests"]) != number:
        assert time.monotonic() < deadline, f"{found} requests stored, expected {number}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def settled() -> Callable[[str, int], None]:
    return wait_for_requests


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The machine's own Chromium; nothing is ever downloaded.

    Playwright's driver keeps an event loop running in this thread as long as it is open, and no
    other test could run one of its own: so it ends with its module.
    """
    api = pytest.importorskip(
        "playwright.sync_api", reason="the package playwright is not installed"
    )
    found = [path for name in CHROMIUM_NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(CHROMIUM_NAMES)} is in PATH")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what went wrong on it while it was looked at."""

    page: Any
    home: str
    problems: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Any:
        self.page.goto(self.home + path)
        self.page.get_by_text("Live", exact=True).wait_for()
        return self.page


@pytest.fixture
def look(chromium: Any, serve: Callable[..., Served]) -> Iterator[Callable[..., Any]]:
    """Open the dashboard of a gateway: `look(server, color_scheme="dark", viewport=...)`.

    It takes `serve` so that its pages close before what they show stops.

    Afterwards every page must have kept quiet: no error in the console, no violation of the content
    security policy, no exception, and no request to anything but its own gateway.
    `look.tolerate(words)` exempts console messages with these words.
    """
    opened: list[tuple[Any, Watched]] = []
    tolerated: list[str] = []

    def start(server: Served, path: str = "/", **options: Any) -> Any:
        options.setdefault("viewport", {"width": 1400, "height": 1000})
        context = chromium.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(8_000)
        watched = Watched(page, server.url)
        opened.append((context, watched))
        page.on("pageerror", lambda error: watched.problems.append(f"exception: {error}"))
        page.on("console", lambda message: _listen(watched, message))
        page.on("request", lambda request: watched.urls.append(request.url))
        return watched.open(path)

    start.tolerate = tolerated.append  # type: ignore[attr-defined]
    yield start
    for context, watched in opened:
        context.close()
        problems = [p for p in watched.problems if not any(words in p for words in tolerated)]
        assert problems == []
        assert [url for url in watched.urls if not url.startswith(f"{watched.home}/")] == []


def _listen(watched: Watched, message: Any) -> None:
    if message.type in ("error", "warning"):
        watched.problems.append(f"{message.type}: {message.text}")
