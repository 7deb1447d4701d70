"""One worker: a whole gateway on a socket that its parent holds.

It tells its parent over a pipe when it serves and then, from its event loop, that it is alive; the
parent tells it to stop, to stop at once and to read its configuration again. When the pipe ends the
parent is gone, and the worker stops as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wye.errors import WyeError
from wye.files import cannot
from wye.gateway.config import Config
from wye.gateway.gateway import Gateway
from wye.gateway.server import GatewayServer, application, read_again, run
from wye.gateway.telemetry.log_lines import start_logging
from wye.gateway.workers.board import Board
from wye.gateway.workers.summed import count_in, expose_sums

if TYPE_CHECKING:
    from starlette.applications import Starlette

logger = logging.getLogger("wye.gateway")
BEAT_SECONDS = 1.0
# What a parent says.
STOP, CUT, RELOAD = "stop", "cut", "reload"
# What a worker says, with words beside the last two.
READY, ALIVE, TELLS, FAILED = "ready", "alive", "tells", "failed"
# Held back from a worker from before it begins until it can deal with them.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Orders:
    """What a worker is started with.

    Attributes:
        number: its place, from 1 to `workers`.
        config: of the whole command.
        path: of `wye.toml`, where there is one to be read again.
        folder: see `wye.gateway.workers.board`.
        tells: whether it says how its start goes, as one of all workers does.
    """

    number: int
    workers: int
    config: Config
    path: str | None
    folder: Path
    tells: bool


def own_config(config: Config, number: int) -> Config:
    """What one worker does of what the configuration asks of all.

    Canaries are asked, and what feedback says of promises is watched, by the first alone: both look
    at all there is.
    """
    if config.watch is None or number == 1:
        return config
    watch = config.watch.model_copy(update={"canaries": None, "calibration": False})
    return config.model_copy(update={"watch": watch})


def work(orders: Orders, listener: socket.socket, pipe: Connection) -> None:
    """The process of a worker, from its begin to its end.

    Exits with 1 where it cannot start; the reason goes to the parent.
    """
    # A terminal's Ctrl-C is for the parent, which then tells its workers.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The server drains, and then hands the signal on to this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    count_in(orders.folder, orders.number)
    config = own_config(orders.config, orders.number)
    start_logging(config)

    def say(message: str) -> None:
        if orders.tells:
            pipe.send((TELLS, message))

    try:
        app = application(config, None, say)
        gateway: Gateway = app.state.gateway
        if orders.path is not None:
            gateway.keeper.read_again_by(partial(read_again, orders.path))
        board = _join(app, orders)
        link = _Link(pipe, gateway)
        try:
            run(app, listener, link.open)
        finally:
            board.close()
    except (WyeError, OSError) as error:
        said = cannot(error) if isinstance(error, OSError) else str(error)
        _try_to_send(pipe, (FAILED, said))
        sys.exit(1)
    if link.orphaned:
        # Nobody else is left to do it.
        shutil.rmtree(orders.folder, ignore_errors=True)


def _join(app: Starlette, orders: Orders) -> Board:
    """Have every page and scrape tell of all workers."""
    board = Board(orders.folder, orders.number, orders.workers, app.state.figures)
    app.state.figures = board.figures
    app.state.workers = board
    app.state.written_within = min(orders.config.store.batch_seconds, 2.0) + 0.5
    expose_sums(app.state.gateway.metrics, orders.folder)
    board.start()
    return board


class _Link:
    """The pipe to the parent, once the worker serves; used on its event loop."""

    def __init__(self, pipe: Connection, gateway: Gateway) -> None:
        self.orphaned = False
        self._pipe = pipe
        self._gateway = gateway

    def open(self, server: GatewayServer) -> None:
        """Say that the worker serves, and do from here on what the parent says."""
        self._pipe.send((READY, ""))
        # A parent that does not read must not hold up requests.
        os.set_blocking(self._pipe.fileno(), False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._hear, server)
        self._beat()

    def _beat(self) -> None:
        _try_to_send(self._pipe, (ALIVE, ""))
        self._loop.call_later(BEAT_SECONDS, self._beat)

    def _hear(self, server: GatewayServer) -> None:
        try:
            said = self._pipe.recv()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._loop.remove_reader(self._pipe.fileno())
            logger.error("the parent of the workers is gone; this worker stops")
            self.orphaned = server.should_exit = True
            return
        if said == RELOAD:
            self._gateway.keeper.reload()
            return
        server.should_exit = True
        server.force_exit = server.force_exit or said == CUT


def _try_to_send(pipe: Connection, message: tuple[str, Any]) -> None:
    """Send where there is room and somebody to read it; what is lost is no news."""
    try:
        pipe.send(message)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return
