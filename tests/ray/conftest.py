"""A Ray cluster of two workers on this machine, and an upstream beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray, as long as the tests of `wye.ray` run."""
    ray = pytest.importorskip(
        "ray", reason="Ray is not installed: pip install --group ray, or the extra `ray`"
    )
    # Workers are not to wait for whatever else this machine does.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray reads it so
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=200_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture
def upstream() -> Iterator[int]:
    """The port of an upstream that answers as the gateway's own tests have it."""
    script = Path(__file__).parents[1] / "gateway" / "outside_world.py"
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield int(process.stdout.readline())
    process.kill()
    process.communicate()


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
