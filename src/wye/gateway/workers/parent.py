"""The parent of the workers: starts them, replaces those that die or hang, stops them in order.

It holds the address and answers nothing itself. The first worker starts alone, so that what is
wrong with the configuration, the router or the store is said once, and a store is made or brought
up to date by one; the others follow when it serves. From the moment that all have served, a worker
that ends is replaced: at once, and after a pause that doubles where it does not live for a minute.
One that cannot be replaced is tried again as long as another serves.

uvicorn's own supervisor restarts workers to reload them, asks a thread of theirs whether they live,
which answers also where their event loop hangs, and starts one that dies at its start for ever.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from wye.errors import WyeError
from wye.gateway.config import Config
from wye.gateway.config_file import read_config
from wye.gateway.server import GRACE_SECONDS, ServeError
from wye.gateway.workers import board
from wye.gateway.workers.worker import (
    ALIVE,
    CUT,
    FAILED,
    READY,
    RELOAD,
    SIGNALS,
    STOP,
    TELLS,
    Orders,
    work,
)

logger = logging.getLogger("wye.gateway")
_SPAWN = multiprocessing.get_context("spawn")
# A worker that lived for so long did not die of what it began with.
_SOUND_SECONDS = 60.0
_LONGEST_PAUSE, _MOST_DOUBLINGS = 60.0, 6
# Longest start of a worker while others serve.
_START_SECONDS = 300.0
_LOOK_SECONDS = 1.0


def serve_by_workers(
    config: Config,
    path: str | None,
    listener: socket.socket,
    say: Callable[[str], None],
    welcome: Callable[[], None],
) -> None:
    """Serve with `config.server.workers` processes until interrupted or terminated.

    Args:
        path: of the configuration, to be read again; None where there is no file.
        listener: the address, which listens already.
        say: is told how the start goes.
        welcome: called once all workers serve.

    Raises:
        ServeError: the workers cannot start, or none is left and none can be started.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ServeError("several workers are started from the main thread alone")
    try:
        folder = board.make_folder(config.server.workers)
    except OSError as error:
        raise ServeError(f"there is no room for what workers share: {error}") from error
    with folder, _signals() as signals:
        Parent(config, path, listener, Path(folder.name), say, welcome).run(signals)


@dataclass(eq=False)
class _Worker:
    """One process.

    Attributes:
        started, heard: when it was started, and when it was heard of last.
        failure: why it could not start, in its own words.
    """

    process: SpawnProcess
    pipe: Connection
    started: float
    heard: float
    serves: bool = False
    failure: str | None = None


class Parent:
    """Keeps the workers of one command; arguments as of `serve_by_workers`."""

    def __init__(
        self,
        config: Config,
        path: str | None,
        listener: socket.socket,
        folder: Path,
        say: Callable[[str], None],
        welcome: Callable[[], None],
    ) -> None:
        self._config = config
        self._path = path
        self._listener = listener
        self._folder = folder
        self._say = say
        self._welcome = welcome
        self._count = config.server.workers
        self._workers: dict[int, _Worker] = {}
        # When the worker of a place is to be started, and how often the last ones died young.
        self._due: dict[int, float] = {1: time.monotonic()}
        self._young: dict[int, int] = {}
        self._stood = False
        self._over: float | None = None
        self._reason: str | None = None

    def run(self, signals: socket.socket) -> None:
        """Start all, and keep them until told to stop.

        Args:
            signals: gives the number of each signal that came, as a byte.

        Raises:
            ServeError: see `serve_by_workers`.
        """
        try:
            while self._over is None or self._workers:
                self._start_who_is_due()
                self._wait(signals)
                self._look_after()
        finally:
            for worker in self._workers.values():
                worker.process.kill()
        if self._reason is not None:
            raise ServeError(self._reason)

    def _start_who_is_due(self) -> None:
        now = time.monotonic()
        for number in sorted(n for n, due in self._due.items() if due <= now):
            # Where one cannot be started, none may be due any more.
            if self._due.pop(number, None) is not None:
                self._start(number)

    def _start(self, number: int) -> None:
        tells = number == 1 and not self._stood
        orders = Orders(number, self._count, self._config, self._path, self._folder, tells)
        try:
            process, pipe = _started(orders, self._listener)
        except OSError as error:
            self._cannot_start(number, f"a process cannot be started: {error}")
            return
        now = time.monotonic()
        self._workers[number] = _Worker(process, pipe, now, now)

    def _wait(self, signals: socket.socket) -> None:
        """Wait for signals, words and ends, and note what came."""
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        ends = [worker.process.sentinel for worker in self._workers.values()]
        next_start = min(self._due.values(), default=time.monotonic() + _LOOK_SECONDS)
        patience = min(max(next_start - time.monotonic(), 0.0), _LOOK_SECONDS)
        came = connection.wait([signals, *pipes, *ends], patience)
        for one in came:
            if one is signals:
                for number in signals.recv(64):
                    self._obey(number)
            elif isinstance(one, Connection):
                self._listen_to(pipes[one])

    def _listen_to(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                kind, words = worker.pipe.recv()
                worker.heard = time.monotonic()
                if kind == READY:
                    worker.serves = True
                elif kind == TELLS:
                    self._say(words)
                elif kind == FAILED:
                    worker.failure = words
                else:
                    assert kind == ALIVE
        except (EOFError, ConnectionResetError):
            # Its end is told by the process. Until then it is not to be asked again and again.
            worker.process.join(_LOOK_SECONDS)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif self._over is None:
            self._stop(None)
        elif number == signal.SIGINT:
            self._tell(CUT)

    def _reload(self) -> None:
        """Have all workers read the configuration again, and those that come later as well."""
        if self._path is None:
            return
        try:
            fresh = read_config(self._path)
        except WyeError as error:
            logger.error("the configuration cannot be read again: %s", error)
        else:
            kept = ("policies", "default_policy", "router")
            changed = {name: getattr(fresh, name) for name in kept}
            self._config = self._config.model_copy(update=changed)
        self._tell(RELOAD)

    def _stop(self, reason: str | None) -> None:
        """Stop all; `reason` is why nothing serves."""
        server = self._config.server
        self._over = time.monotonic() + server.drain_seconds + GRACE_SECONDS + server.worker_seconds
        self._reason = reason
        self._due.clear()
        for number, worker in list(self._workers.items()):
            if not worker.serves:
                # It has nothing to bring to an end, and does not listen yet.
                self._end(number, worker)
        self._tell(STOP)

    def _tell(self, what: str) -> None:
        for worker in self._workers.values():
            try:
                worker.pipe.send(what)
            except OSError:
                logger.debug("worker %s does not listen", worker.process.pid)

    def _look_after(self) -> None:
        """See to those that ended, hang, or began to serve."""
        now = time.monotonic()
        server = self._config.server
        for number, worker in list(self._workers.items()):
            if worker.process.exitcode is not None:
                self._listen_to(worker)
                self._ended(number, worker)
            elif self._over is not None and now > self._over:
                self._give_up(number, worker, "has not stopped in time")
            elif worker.serves and now - worker.heard > server.worker_seconds:
                self._give_up(number, worker, f"was silent for {server.worker_seconds:g} s")
            elif not worker.serves and self._stood and now - worker.started > _START_SECONDS:
                self._give_up(number, worker, f"did not come up in {_START_SECONDS:g} s")
        if self._over is None and not self._stood and any(w.serves for w in self._workers.values()):
            self._go_on()

    def _go_on(self) -> None:
        """After the first worker serves, start the others; after all serve, say so."""
        for number in range(2, self._count + 1):
            if number not in self._workers:
                self._due.setdefault(number, 0.0)
        if not self._due and all(worker.serves for worker in self._workers.values()):
            self._stood = True
            self._welcome()

    def _give_up(self, number: int, worker: _Worker, why: str) -> None:
        logger.error("worker %d (process %d) %s and is ended", number, worker.process.pid, why)
        self._end(number, worker)
        if self._over is None:
            self._replace(number, worker, why)

    def _ended(self, number: int, worker: _Worker) -> None:
        how = _how(worker.process.exitcode)
        self._end(number, worker)
        if self._over is not None:
            return
        if worker.serves:
            logger.error("worker %d (process %d) %s", number, worker.process.pid, how)
        said = worker.failure or f"a worker {how} while it started; what it logged says why"
        self._replace(number, worker, said)

    def _replace(self, number: int, worker: _Worker, why: str) -> None:
        """Have another worker take the place of one that is gone."""
        if not worker.serves:
            self._cannot_start(number, why)
        elif time.monotonic() - worker.started >= _SOUND_SECONDS:
            self._young[number] = 0
            self._due[number] = 0.0
        else:
            self._start_after_a_pause(number)

    def _cannot_start(self, number: int, why: str) -> None:
        """Try again where others serve; else nothing will come of it."""
        if not self._stood:
            self._stop(why)
        elif any(worker.serves for worker in self._workers.values()):
            logger.error("worker %d cannot be replaced for now: %s", number, why)
            self._young[number] = max(self._young.get(number, 0), 1)
            self._start_after_a_pause(number)
        else:
            self._stop(f"no worker is left, and none can be started: {why}")

    def _start_after_a_pause(self, number: int) -> None:
        """The first who dies young is replaced at once, the next later and later."""
        young = self._young.get(number, 0)
        pause = min(2.0**young, _LONGEST_PAUSE) if young else 0.0
        self._young[number] = min(young + 1, _MOST_DOUBLINGS)
        self._due[number] = time.monotonic() + pause

    def _end(self, number: int, worker: _Worker) -> None:
        """See a process to its end, and leave at its place what it had counted."""
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        del self._workers[number]
        try:
            board.bury(self._folder, number)
        except OSError as error:
            logger.warning("what worker %d was doing is still told of: %s", number, error)


def _started(orders: Orders, listener: socket.socket) -> tuple[SpawnProcess, Connection]:
    """The process of a worker, and the pipe to it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(
        target=work, args=(orders, listener, theirs), name=f"wye-worker-{orders.number}"
    )
    # The worker takes these up when it knows what to do with them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # So that the pipe ends with the worker.
        theirs.close()
    return process, ours


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that gives the number of each signal that the parent has to deal with."""
    # It would let these signals through to the first worker.
    resource_tracker.ensure_running()
    incoming, outgoing = socket.socketpair()
    with closing(incoming), closing(outgoing):
        outgoing.setblocking(False)
        wakeup = signal.set_wakeup_fd(outgoing.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        try:
            yield incoming
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
