"""The folder in which workers tell each other how they stand, and what becomes of it.

Each worker has a place there by its number. It writes its figures anew every `_SECONDS` and reads
the others'; Prometheus' counters lie beside them in files that are mapped into memory
(`wye.gateway.workers.summed`). What was counted belongs to the place: when a worker dies it stays,
and the worker that takes its place counts on from there.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from wye.gateway.figures import Figures, together

logger = logging.getLogger("wye.gateway")
_SECONDS = 0.5
_MEMORY = Path("/dev/shm")
# Bytes set aside for what Prometheus counts. A file that is mapped and cannot grow, since its disk
# is full, kills the process that writes to it; what is set aside is there.
_SET_ASIDE = {"counter": 128 * 1024, "histogram": 256 * 1024, "gauge_livesum": 1024}
_LOADS = "gauge_livesum"


class Read(Protocol):
    """Tells how this process stands; see `wye.gateway.figures.figures_of`."""

    def __call__(self, *, monitors: bool = False) -> Figures:
        """How it stands at this moment."""


class _Posted(BaseModel):
    """What stands at the place of one worker."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    pid: int | None
    figures: Figures


def make_folder(workers: int) -> tempfile.TemporaryDirectory[str]:
    """A folder with a place for each worker; in memory where the system offers that.

    Raises:
        OSError: there is no room for it.
    """
    if os.access(_MEMORY, os.W_OK):
        try:
            return _made(workers, _MEMORY)
        except OSError as error:
            logger.warning("%s has no room for what workers share: %s", _MEMORY, error)
    return _made(workers, None)


def _made(workers: int, where: Path | None) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="wye-workers-", dir=where)
    try:
        for number in range(1, workers + 1):
            for kind in _SET_ASIDE:
                _set_aside(Path(folder.name), kind, number)
    except BaseException:
        folder.cleanup()
        raise
    return folder


def bury(folder: Path, number: int) -> None:
    """Leave of a dead worker what it had counted, and nothing of what it was doing."""
    _set_aside(folder, _LOADS, number)
    posted = _read(folder, number)
    if posted is not None:
        _write(folder, number, _Posted(pid=None, figures=posted.figures.remains()))


class Board:
    """One worker's place at the folder, and its view of the others.

    Args:
        folder: see `make_folder`.
        number: of this worker, from 1.
        workers: how many there are.
        read: how this process stands.
    """

    def __init__(self, folder: Path, number: int, workers: int, read: Read) -> None:
        self._folder = folder
        self._number = number
        self._others = [one for one in range(1, workers + 1) if one != number]
        self._read = read
        before = _read(folder, number)
        # Who had the place before has counted some already.
        self._before = Figures() if before is None else before.figures.remains()
        self._seen: dict[int, _Posted] = {}
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wye-board", daemon=True)

    def start(self) -> None:
        """Begin to tell and to read."""
        self._look()
        self._thread.start()

    def close(self) -> None:
        """Tell a last time what was counted, and stop."""
        self._stop.set()
        self._thread.join()
        self._look()

    def figures(self, *, monitors: bool = False) -> Figures:
        """How all workers stand: this one now, the others as they said a moment ago.

        Args:
            monitors: tell of them too; see `wye.gateway.figures.figures_of`.
        """
        others = [posted.figures for posted in self._seen.values()]
        return together([self._own(monitors), *others])

    def told(self) -> dict[str, Any]:
        """Who answers, and the process of each worker that serves; `pids` by number."""
        pids = {number: posted.pid for number, posted in self._seen.items()}
        serving = {number: pid for number, pid in pids.items() if pid is not None}
        serving[self._number] = os.getpid()
        return {
            "answering": self._number,
            "configured": len(self._others) + 1,
            "pids": {str(number): serving[number] for number in sorted(serving)},
        }

    def _own(self, monitors: bool) -> Figures:
        own = self._read(monitors=monitors)
        told = tuple({**monitor, "worker": self._number} for monitor in own.monitors)
        return together([own.model_copy(update={"monitors": told}), self._before])

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            _write(self._folder, self._number, _Posted(pid=os.getpid(), figures=self._own(True)))
            found = {number: _read(self._folder, number) for number in self._others}
        except OSError as error:
            if not self._failed:
                logger.warning("workers cannot tell each other how they stand: %s", error)
            self._failed = True
            return
        self._failed = False
        self._seen = {number: posted for number, posted in found.items() if posted is not None}


def _write(folder: Path, number: int, posted: _Posted) -> None:
    _replace(_place(folder, number), posted.model_dump_json().encode())


def _read(folder: Path, number: int) -> _Posted | None:
    try:
        return _Posted.model_validate_json(_place(folder, number).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        # Only the whole is ever put there, so this is a defect; the others can still be told of.
        logger.error("what worker %d tells cannot be read: %s", number, error)
        return None


def _place(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.json"


def _set_aside(folder: Path, kind: str, number: int) -> None:
    _replace(folder / f"{kind}_{number}.db", bytes(_SET_ASIDE[kind]))


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
