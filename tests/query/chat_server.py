"""A real HTTP server on this machine that answers chats as a test tells it to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class ChatServer:
    """What was asked, and what shall be answered: responses in turn, else the last word said."""

    base_url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    delay: float = 0.0

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        await asyncio.sleep(self.delay)
        if self.responses:
            return self.responses.pop(0)
        return JSONResponse(completion(body["messages"][-1]["content"].split()[-1]))

    def forget(self) -> None:
        self.asked.clear()
        self.keys.clear()
        self.responses.clear()
        self.delay = 0.0


def completion(
    text: str | None,
    *,
    first: dict[str, float] | None = None,
    finish: str = "stop",
    refusal: str | None = None,
) -> dict[str, Any]:
    """A chat completion of two tokens in and three out; `first` lists its first tokens."""
    logprobs = None
    if first:
        listed = [{"token": t, "logprob": v} for t, v in first.items()]
        logprobs = {"content": [{**listed[0], "top_logprobs": listed}]}
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "model": "served",
        "choices": [{"message": message, "finish_reason": finish, "logprobs": logprobs}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3},
    }


@contextmanager
def serving() -> Iterator[ChatServer]:
    state = ChatServer()
    app = Starlette(routes=[Route("/v1/chat/completions", state.chat, methods=["POST"])])
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
