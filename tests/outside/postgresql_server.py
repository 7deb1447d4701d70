"""A real PostgreSQL server, as Debian's package or another brings it, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

PASSWORD = "p\u00e4ss w0rd@/:%"
_SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
max_connections = 60
shared_buffers = 32MB
timezone = 'Pacific/Auckland'
log_timezone = 'UTC'
log_statement = 'none'
"""


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; None where there is none."""
    found = shutil.which("postgres")
    packaged = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2])
    )
    homes = ([Path(found).resolve().parent] if found else []) + packaged[::-1]
    return next((home for home in homes if (home / "initdb").exists()), None)


class PostgreSql:
    """A server on a socket without a password and on a port with one."""

    def __init__(self, home: Path) -> None:
        self._home = home
        # Not in pytest's folder: its parents are closed to the user that the server runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="wye-pg-"))
        self._as: dict = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.data = self.folder / "data"
        subprocess.run(
            [
                home / "initdb", "-D", self.data, "-U", "wye", "--pwfile", secret, "-E", "UTF8",
                "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "-N",
            ],
            check=True, capture_output=True, cwd=self.folder, **self._as,
        )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"{_SETTINGS}port = {self.port}\nunix_socket_directories = '{self.folder}'\n"
            )
        self._process: subprocess.Popen | None = None
        self._made = 0
        self.start()

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._home / "postgres", "-D", self.data],
                stdout=log, stderr=log, cwd=self.folder, **self._as,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                self.do("SELECT 1")
                return
            except sa.exc.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server in order; connections are told."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def crash(self) -> None:
        """Kill every process of the server at once, with SIGKILL."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [self._process.pid, *map(int, children.read_text().split())]
        for pid in pids:
            # A child may end by itself meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)
        # What a start after a crash would find in the way: memory that nobody uses any more.
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids[1:]):
            assert time.monotonic() < deadline, "the server's processes do not die"
            time.sleep(0.02)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def do(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of a transaction."""
        engine = sa.create_engine(
            self.url(database), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            connection.execute(sa.text(statement))

    def url(self, database: str) -> str:
        """The address of a database on the socket."""
        return f"postgresql+psycopg://wye@/{database}?host={self.folder}&port={self.port}"

    def url_with_password(self, database: str) -> str:
        """The address of a database on the port; the password is not in it."""
        return f"postgresql+psycopg://wye@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The name of an empty database."""
        self._made += 1
        name = f"test_{self._made}"
        self.do(f"CREATE DATABASE {name} STRATEGY wal_log")
        return name
