"""The script behind `make up` and `make test` says what failed and leaves nothing half-done."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the script reads, without an environment."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/bootstrap.py", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def bootstrap(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(project / "scripts/bootstrap.py"), *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )


def test_without_a_network_it_says_so_and_can_be_repeated(project: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    for _ in range(2):
        ended = bootstrap(project, "run", **offline)
        assert ended.returncode != 0
        assert "no network" in ended.stderr
        assert "run the same command again" in ended.stderr
        assert not (project / ".venv/wye-installed").exists()


def test_a_folder_that_cannot_be_written_is_named(project: Path) -> None:
    (project / ".venv").write_text("a file where the environment should be")
    (project / ".venv").chmod(0o444)
    ended = bootstrap(project, "run", PIP_NO_INDEX="1")
    assert ended.returncode != 0
    assert "wye:" in ended.stderr


def test_an_unknown_level_lists_the_known_ones(project: Path) -> None:
    ended = bootstrap(project, "everything")
    assert ended.returncode == 1
    assert "run|test" in ended.stderr


def test_an_old_python_is_refused_by_name(project: Path) -> None:
    script = project / "scripts/bootstrap.py"
    text = re.sub(r"LEAST = \(3, \d+\)", "LEAST = (3, 99)", script.read_text())
    script.write_text(text)
    ended = bootstrap(project, "run")
    assert ended.returncode == 1
    assert "needs 3.99 or newer" in ended.stderr
    assert not (project / ".venv").exists()


def test_make_names_the_commands() -> None:
    ended = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "make up" in ended.stdout
    assert "make test" in ended.stdout


def test_make_says_when_there_is_no_python() -> None:
    ended = subprocess.run(
        ["make", "up", "PYTHON=no-such-python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "Python 3.11 or newer" in ended.stderr
