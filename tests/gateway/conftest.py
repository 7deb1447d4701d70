"""A real gateway on a loopback port, and a real process that plays the outside world."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from wye.gateway.app import create_app
from wye.gateway.config import Config
from wye.gateway.gateway import Gateway
from wye.gateway.server import http_settings
from wye.query.base import QueryRouter


class World:
    """The process of `outside_world.py`."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("outside_world.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", verify=False)

    def target(self, name: str, **values: Any) -> dict[str, Any]:
        """A target that behaves as its `model` says; its own name says so where none is given."""
        prices = {"price_in_per_mtok": 1.0, "price_out_per_mtok": 2.0}
        return {"name": name, "base_url": self.base_url, **prices, **values}

    def seen(self, model: str) -> list[dict[str, Any]]:
        """Requests that came for `model`, oldest first."""
        notes = self._http.get("/seen").json()
        return [note for note in notes if note["body"]["model"] == model]

    def mend(self) -> None:
        self._http.post("/mend")

    def script(self, model: str, **answer: Any) -> None:
        """What is answered for `model`: `body` or `raw` (`headers`), or a stream of `events`."""
        self._http.post("/script", json={model: answer})

    def stop(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Served:
    """A gateway behind uvicorn, in a thread of its own."""

    def __init__(self, config: Config, router: QueryRouter | None = None) -> None:
        self.app = app = create_app(config, router)
        self.gateway: Gateway = app.state.gateway
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        settings = http_settings(app)
        settings.timeout_graceful_shutdown = 2
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert self._thread.is_alive(), "the gateway did not start"
            assert time.monotonic() < deadline, "the gateway did not start in time"
            time.sleep(0.005)
        self.http = httpx.Client(base_url=self.url, timeout=30, verify=False)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    def tasks(self) -> set[str]:
        """What runs in the gateway at this moment, by the name of its coroutine."""
        return {str(task.get_coro()) for task in asyncio.all_tasks(self._loop)}

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def ask(
        self, model: str = "wye", text: str = "What is 6 x 7?", **fields: Any
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def decision(self, answer: httpx.Response) -> dict[str, Any]:
        found = self.http.get(f"/v1/decisions/{answer.headers['x-wye-decision']}")
        assert found.status_code == 200, found.text
        return dict(found.json())

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the gateway did not stop"
        self.http.close()
        if "openai" in vars(self):
            self.openai.close()


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.stop()


@pytest.fixture(scope="session")
def serving() -> type[Served]:
    """Serves a configuration as it is; the caller stops it."""
    return Served


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a gateway from the values of a configuration, for all tests of a module.

    `environment` is set while it runs.
    """
    with ExitStack() as stack:

        def start(environment: Mapping[str, str], **values: Any) -> Served:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in environment.items():
                patch.setenv(name, value)
            store = {"path": str(tmp_path_factory.mktemp("gateway") / "gateway.db")}
            policies = {"quality": {"kind": "quality"}}
            config = Config.model_validate({"store": store, "policies": policies, **values})
            served = Served(config)
            stack.callback(served.stop)
            return served

        yield start


@pytest.fixture
def served(shared: Served) -> Served:
    """The gateway `shared` of a module, whose targets have recovered from the test before."""
    for deployment in shared.gateway.deployments:
        deployment.breaker.succeeded()
    return shared


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a gateway from the values of a configuration; its store is in the test's folder."""
    started: list[Served] = []

    def start(router: QueryRouter | None = None, **values: Any) -> Served:
        values.setdefault("store", {})
        if "url" not in values["store"]:
            values["store"] = {"path": str(tmp_path / "gateway.db"), **values["store"]}
        values.setdefault("policies", {"quality": {"kind": "quality"}})
        started.append(Served(Config.model_validate(values), router))
        return started[-1]

    yield start
    for served in started:
        served.stop()


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until `check` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


_SERVE = """
import sys
from rich.console import Console
from wye.gateway.server import serve
serve(sys.argv[1], port=0, console=Console())
"""


@contextmanager
def _running(config: Path, file_limit: int | None = None) -> Iterator[tuple[subprocess.Popen, str]]:
    """A gateway's process and its address."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    try:
        for line in process.stdout:
            if found := re.match(r"dashboard +(http://\S+)/", line):
                yield process, found[1]
                return
        raise AssertionError(f"the gateway did not start: {process.stderr.read()}")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(name="running")
def _gateway_process() -> Callable[..., Any]:
    """Of a configuration's path: a gateway's process and its address, while the context lasts."""
    return _running
