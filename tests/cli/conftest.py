"""The command line as a person uses it: words in, screen and exit code out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wye.data import load_embedded


@dataclass(frozen=True)
class Ended:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else; NaN is not JSON."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Wye = Callable[..., Ended]


def run_wye(*words: str | Path, folder: Path, stdin: str = "") -> Ended:
    """Run `wye` in a process of its own, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "wye.cli", *map(str, words)],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "COLUMNS": "140", "OMP_NUM_THREADS": "1"},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def wye(tmp_path: Path) -> Wye:
    def run(*words: str | Path, stdin: str = "") -> Ended:
        return run_wye(*words, folder=tmp_path, stdin=stdin)

    return run


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sample of the embedded set: every sixth question, both sides of the split."""
    data = load_embedded()
    sample = data.where(list(data.queries["query_id"][::6]))
    return sample.write(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router that `wye train` saved."""
    folder = tmp_path_factory.mktemp("trained")
    ended = run_wye("train", small_data, "-o", "router", "--router", "knn", folder=folder)
    assert ended.code == 0, ended.err
    return folder / "router"
