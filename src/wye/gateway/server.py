"""Run the gateway: prepare, listen, say where, stop in order.

`serve` is what `wye up` (no configuration: the embedded pool) and `wye serve` call.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from threadpoolctl import threadpool_limits

from wye.errors import WyeError
from wye.gateway.app import create_app
from wye.gateway.config import Config
from wye.gateway.config_file import read_config, with_server
from wye.gateway.dialects import shown
from wye.gateway.first_start import Ready, embedded_config, embedded_router
from wye.gateway.gateway import Gateway
from wye.gateway.heads import with_head_limits
from wye.gateway.telemetry.log_lines import start_logging

if TYPE_CHECKING:
    from rich.console import Console

    from wye.data import RoutingData
    from wye.query.base import QueryRouter

# After the streams were drained or cut, for connections that their clients keep open.
GRACE_SECONDS = 5
_HEADER_BYTES = 64 * 1024
_TICK_SECONDS = 0.05
# Python lets a thread that computes hold the others up for this long; the store's writer does so
# while it makes rows, and requests would feel the usual 5 ms.
_SWITCH_SECONDS = 0.0005
_YOUNG_OBJECTS = 20_000


class ServeError(WyeError):
    """The gateway cannot start; the message says what to do."""


def serve(
    config: str | Path | Config | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        config: `wye.toml`, or its values; the embedded pool alone when not given.
        host, port, workers: override the configuration; port 0 takes a free one.
        console: where progress and the address are shown; nothing is shown without.

    Raises:
        ServeError: the address cannot be listened on, or the application failed to start.
        ConfigError, StoreError, DataError, WeightsError: see these.
    """

    def say(message: str) -> None:
        if console is not None:
            console.print(message, highlight=False, markup=False, soft_wrap=True)

    outcomes = _embedded_outcomes() if config is None else None
    if outcomes is not None:
        settings = embedded_config(outcomes)
    else:
        settings = config if isinstance(config, Config) else read_config(str(config))
    settings = with_server(settings, host=host, port=port, workers=workers)
    path = None if config is None or isinstance(config, Config) else str(config)
    if settings.server.workers > 1:
        _refuse_embedded(settings)
    # Taken before anything slow is done, so that a port in use is told at once.
    with _listen(settings.server.host, settings.server.port) as listener:
        start_logging(settings)
        if settings.server.workers > 1:
            from wye.gateway.workers.parent import serve_by_workers

            serve_by_workers(
                settings, path, listener, say, lambda: _welcome(settings, listener, say)
            )
            return
        _prepare_weights(settings, console, say)
        ready = embedded_router(outcomes, say) if outcomes is not None else None
        app = application(settings, ready, say)
        if path is not None:
            app.state.gateway.keeper.read_again_by(partial(read_again, path))
        run(app, listener, lambda _: _welcome(settings, listener, say))


def _embedded_outcomes() -> RoutingData:
    from wye.data import load_embedded

    return load_embedded()


def _prepare_weights(config: Config, console: Console | None, say: Callable[[str], None]) -> None:
    """Bring the embedded model's weights here where a target needs them."""
    if not any(target.kind == "embedded" for target in config.targets):
        return
    from wye.gateway.pool import WeightsError, weights

    try:
        weights.locate()
    except WeightsError:
        say("fetching the embedded model's weights (98 MB, once)")
        weights.fetch(console=console)


def _refuse_embedded(config: Config) -> None:
    names = [target.name for target in config.targets if target.kind == "embedded"]
    if names:
        raise ServeError(
            f"the target {names[0]} is embedded: its model's server belongs to one gateway process "
            f"and takes nearly every core, so it is not started {config.server.workers} times; "
            'run one worker, or serve the model yourself and name it as a target of kind "openai"'
        )


def application(config: Config, ready: Ready | None, say: Callable[[str], None]) -> Starlette:
    """The gateway of a configuration, with its router.

    Args:
        ready: a router that is fitted already.
        say: is told which router that is.

    Raises:
        ConfigError, StoreError: see `create_app`.
    """
    if ready is not None:
        return create_app(
            config, ready.router, frontier=ready.frontier, playground=ready.playground
        )
    if config.router.path is None:
        say("no [router] path: targets go by the quality that wye.toml states")
        return create_app(config)
    from wye.query import load

    router = load(config.router.path)
    app = create_app(config, router)
    known = app.state.gateway.service.known
    say(f"router {router.name} from {config.router.path}, which knows {', '.join(known) or 'none'}")
    return app


def read_again(path: str) -> tuple[Config, QueryRouter | None]:
    """The configuration as it is by now, and its router."""
    from wye.query import load

    config = read_config(path)
    return config, None if config.router.path is None else load(config.router.path)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off on what it accepts; else parts of
    # a response wait for each other's acknowledgement, some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = (
            f"port {port} is taken; stop the program that has it, or choose another with --port"
            if taken
            else f"{host}:{port} cannot be listened on ({error}); choose another --host or --port"
        )
        raise ServeError(why) from error
    listener.set_inheritable(True)
    return listener


def http_settings(app: Starlette) -> uvicorn.Config:
    """How uvicorn serves the application."""
    gateway: Gateway = app.state.gateway
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        # Nothing here reads a client's address, and a proxy's word for it costs time.
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    config.load()
    config.http_protocol_class = with_head_limits(
        config.http_protocol_class,
        seconds=gateway.config.server.header_seconds,
        most_bytes=_HEADER_BYTES,
    )
    return config


def run(app: Starlette, listener: socket.socket, ready: Callable[[GatewayServer], None]) -> None:
    """Serve until stopped; `ready` is called on the event loop once the application serves.

    Raises:
        ServeError: the application did not start.
    """
    gateway: Gateway = app.state.gateway
    config = http_settings(app)
    server = GatewayServer(config, gateway, ready)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return
    except SystemExit:
        # uvicorn leaves so where the application did not start; later it is somebody's wish.
        if server.started:
            raise
    if not server.started:
        raise ServeError("the gateway failed to start; what it logged above says why")


class GatewayServer(uvicorn.Server):
    """A uvicorn server that says when it listens, and drains before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        ready: Callable[[GatewayServer], None],
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> Any:
        """Start the application, then tell."""
        await super().startup(sockets)
        if self.started:
            if threading.current_thread() is threading.main_thread():
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, self._gateway.keeper.reload)
                _keep_pauses_short()
            self._ready(self)

    async def main_loop(self) -> None:
        """Serve until told to stop; then refuse what is new and let what runs come to its end.

        The port stays open meanwhile, so that a load balancer reads 503 from `/healthz` instead of
        losing requests. What still runs after `drain_seconds`, or at a second interrupt, is cut.
        """
        await super().main_loop()
        places, seconds = self._gateway.places, self._gateway.config.server.drain_seconds
        places.drain()
        deadline = time.monotonic() + seconds
        while places.running and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(_TICK_SECONDS)
        if places.running:
            self._gateway.dispatcher.cut(
                f"the gateway is stopping and waited no longer than {seconds:g} s (drain_seconds)"
            )


def _keep_pauses_short() -> None:
    """Settings of this process for a server whose requests share it with a writer of records."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # The few texts of a moment are read sooner than threads that share them would wake up, and
    # those threads spin for a while afterwards.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The same holds of the matrices of an estimate.
    threadpool_limits(limits=1)
    gc.collect()
    # What stands at the start stays; looking through it for garbage would stop every request.
    gc.freeze()
    # The usual threshold looks for garbage several times in every request.
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)


def _welcome(config: Config, listener: socket.socket, say: Callable[[str], None]) -> None:
    port = listener.getsockname()[1]
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    kept = "kept in" if config.prompts_kept else "not kept; decisions are in"
    say(f"dashboard   http://{host}:{port}/")
    say(f'OpenAI API  http://{host}:{port}/v1   model "wye" routes, any api_key will do')
    say(f"prompts are {kept} {shown(config.store.place())}")
    if config.server.workers > 1:
        say(f"workers     {config.server.workers} processes")
    say("next: open the dashboard and try a prompt; Ctrl-C stops")
