"""A Ray cluster of two workers on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
