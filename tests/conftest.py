"""Shared fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgresql_server import PostgreSql, binaries

# Examples have no deadline: the suite does not time things, and a busy machine is no failure.
settings.register_profile("wye", deadline=None)
settings.load_profile("wye")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real outcomes that `WYE_SHARED_DATA` names; tests that need it skip without."""
    value = os.environ.get("WYE_SHARED_DATA")
    if not value:
        pytest.skip("WYE_SHARED_DATA is not set: it names the folder that contains routing/")
    folder = Path(value)
    if not (folder / "routing").is_dir():
        raise FileNotFoundError(f"WYE_SHARED_DATA={value} has no folder routing/")
    return folder


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A PostgreSQL server that runs as long as the tests do."""
    home = binaries()
    if home is None:
        pytest.skip("there is no PostgreSQL server on this machine (Debian: postgresql)")
    server = PostgreSql(home)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a new store can be made: in a file, and in a PostgreSQL database."""
    if request.param == "sqlite":
        return tmp_path / "store.db"
    server = request.getfixturevalue("postgresql")
    return str(server.url(server.database()))
