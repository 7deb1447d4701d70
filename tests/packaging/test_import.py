"""Importing wye defines names and does nothing else."""

import subprocess
import sys

HEAVY = ("numpy", "pandas", "scipy", "sklearn", "torch", "httpx", "starlette", "wordllama")


def test_importing_wye_loads_no_library() -> None:
    probe = f"import wye, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    import wye

    for name in wye.__all__:
        assert getattr(wye, name) is not None


def test_an_unknown_name_says_what_there_is() -> None:
    import pytest

    import wye

    with pytest.raises(AttributeError, match="RoutingData"):
        wye.no_such_name  # noqa: B018
