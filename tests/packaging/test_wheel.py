"""The built wheel, installed alone in an empty environment, has all that it needs."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, its dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("wye-*.whl")
    venv.create(folder / "environment", with_pip=True)
    binaries = folder / "environment" / "bin"
    subprocess.run(
        [binaries / "python", "-m", "pip", "install", "--quiet", str(wheel)],
        check=True,
        timeout=600,
    )
    return binaries


def run(binaries: Path, *arguments: str) -> str:
    done = subprocess.run(
        [binaries / arguments[0], *arguments[1:]],
        cwd=binaries,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_embedded_set_is_in_the_wheel(empty_environment: Path) -> None:
    summary = json.loads(run(empty_environment, "wye", "data", "show", "embedded", "--json"))
    assert summary["queries"] >= 1500


def test_the_catalogue_is_in_the_wheel(empty_environment: Path) -> None:
    systems = json.loads(run(empty_environment, "wye", "systems", "--json"))["systems"]
    assert {"avengers-pro", "embedllm"} <= {system["slug"] for system in systems}


def test_a_router_trains_and_routes_without_extras(empty_environment: Path) -> None:
    directory = str(empty_environment / "router")
    run(empty_environment, "wye", "train", "embedded", "-o", directory, "--router", "knn")
    decision = json.loads(
        run(empty_environment, "wye", "route", directory, "What is 2 + 2?", "--json")
    )
    assert decision["target"] in {c["target"] for c in decision["candidates"]}


def test_the_gateway_serves_the_dashboard_from_the_wheel(empty_environment: Path) -> None:
    probe = (
        "from importlib.resources import files; "
        "folder = files('wye.gateway.dashboard'); "
        "print(sorted(f.name for f in folder.iterdir()))"
    )
    names = run(empty_environment, "python", "-c", probe)
    assert "index.html" in names


def test_the_base_install_has_no_torch(empty_environment: Path) -> None:
    probe = "import importlib.util as u; print(u.find_spec('torch'))"
    assert run(empty_environment, "python", "-c", probe).strip() == "None"
