"""The limit: Starlette and uvicorn, passing bytes on to an upstream and back, and nothing else.

    python bench/gateway/bare_proxy.py UPSTREAM_URL [--workers N]

Prints its port. The HTTP client, server, loop and parser are those that wye uses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def application(upstream: str) -> Starlette:
    """A pass-through to `upstream`."""
    session: aiohttp.ClientSession | None = None

    async def forward(request: Request) -> Response:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        response = await session.post(
            upstream + request.url.path,
            data=await request.body(),
            headers={"content-type": "application/json"},
        )
        if response.content_type == "text/event-stream":
            return StreamingResponse(_pieces(response), media_type=response.content_type)
        return Response(await response.read(), media_type=response.content_type)

    return Starlette(routes=[Route("/v1/chat/completions", forward, methods=["POST"])])


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with response:
        async for piece in response.content.iter_any():
            yield piece


def serve(upstream: str, listener: socket.socket) -> None:
    """Serve in this process."""
    settings = uvicorn.Config(application(upstream), log_config=None, access_log=False)
    uvicorn.Server(settings).run(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    fork = multiprocessing.get_context("fork")
    for _ in range(given.workers - 1):
        fork.Process(target=serve, args=(given.upstream, listener), daemon=True).start()
    serve(given.upstream, listener)
