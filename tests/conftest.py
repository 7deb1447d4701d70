"""Shared fixtures."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
