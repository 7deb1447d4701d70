"""Running generated code against tests, in a process of its own with limits.

The program runs in an empty folder, in a process group of its own, with an empty environment,
Python in isolated mode, and limits on processor time, memory, files and wall-clock time; the group
is killed at the end whatever it did. That guards against accidents: endless loops, memory, output,
files left behind, tests that never run. It is no wall against an attacker: the program can open
network connections and read what the user can read. Run hostile code in a container or a virtual
machine. Limits are those of POSIX; macOS does not enforce the one on memory.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from wye.query.base import RouterError

Status = Literal["passed", "failed", "timeout"]
_MEGABYTE = 2**20
_KEPT = 4000


@dataclass(frozen=True)
class Execution:
    """What became of a program.

    Attributes:
        status: `passed` where program and tests ran to their end, `timeout` where time ran out,
            else `failed`: an error, too much memory, or an exit before the tests were through.
        output: the end of what it printed.
        errors: the end of what it wrote to standard error.
        seconds: it took.
    """

    status: Status
    output: str
    errors: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether program and tests ran to their end."""
        return self.status == "passed"


def run_code(
    code: str, tests: str = "", *, seconds: float = 10.0, memory_mb: int = 1024
) -> Execution:
    """Run `code` and then `tests`, Python source in one namespace.

    Args:
        code: the program.
        tests: raise where something is wrong.
        seconds: of wall-clock time; processor time is limited to the same, rounded up.
        memory_mb: of address space.

    Raises:
        RouterError: a limit is not positive, or this is no POSIX system.

    Example:
        >>> run_code("def twice(x):\\n    return 2 * x", "assert twice(2) == 4").status
        'passed'
    """
    if not seconds > 0 or memory_mb < 1:
        raise RouterError(f"seconds={seconds}, memory_mb={memory_mb}; expected above 0")
    if os.name != "posix":
        raise RouterError("generated code runs under POSIX limits, which this system lacks")
    with tempfile.TemporaryDirectory(prefix="wye-code-", ignore_cleanup_errors=True) as folder:
        # A newline that the code lacks would join its last line and the first test.
        program = Path(folder) / "program.py"
        program.write_text(f"{code}\n{tests}\n", encoding="utf-8", errors="surrogatepass")
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            return _run(folder, seconds, memory_mb, output, errors)


def _run(
    folder: str, seconds: float, memory_mb: int, output: IO[bytes], errors: IO[bytes]
) -> Execution:
    secret = secrets.token_hex(16).encode()
    reading, writing = os.pipe()
    settings = {
        "report": writing,
        "limits": {
            "RLIMIT_CPU": int(seconds) + 1,
            "RLIMIT_AS": memory_mb * _MEGABYTE,
            "RLIMIT_FSIZE": 16 * _MEGABYTE,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        },
    }
    child = str(Path(__file__).with_name("code_child.py"))
    began = time.perf_counter()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", child, json.dumps(settings)],
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    try:
        timed_out = _wait(process, secret, seconds)
    finally:
        # The group may hold what the program started, even when it has ended itself.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # What holds the other end is dead, so that this reads to an end.
        os.set_blocking(reading, False)
        try:
            said = os.read(reading, 64)
        except BlockingIOError:
            said = b""
        os.close(reading)
    cut = timed_out or process.returncode == -signal.SIGXCPU
    status: Status = "timeout" if cut else "failed"
    if not cut and process.returncode == 0 and said.strip() == secret:
        status = "passed"
    return Execution(status, _end(output), _end(errors), time.perf_counter() - began)


def _wait(process: subprocess.Popen[bytes], secret: bytes, seconds: float) -> bool:
    """Whether the time ran out."""
    try:
        process.communicate(secret + b"\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _KEPT))
    return file.read().decode(errors="replace")
