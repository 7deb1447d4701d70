"""The model lives in a process of its own: it starts, answers, dies alone and comes back."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from wye.gateway.pool import EmbeddedModel, EmbeddedModelError, ModelClientError

HELLO = [{"role": "user", "content": "Hello"}]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def test_without_xllamacpp_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedModelError, match=r"wye\[local\]"):
        EmbeddedModel("any.gguf").start()


def test_a_base_url_before_the_start_is_refused():
    with pytest.raises(EmbeddedModelError, match=r"start\(\)"):
        _ = EmbeddedModel().base_url


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"context": 0}, {"threads": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(EmbeddedModelError, match="1 or more"):
        EmbeddedModel(**wrong)


@pytest.mark.local
def test_a_file_that_is_no_model_is_an_error_and_leaves_no_process(gguf, tmp_path):
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"no model")
    model = EmbeddedModel(fake, threads=1)
    with pytest.raises(EmbeddedModelError, match="did not start"):
        model.start()
    assert not model.running
    with pytest.raises(EmbeddedModelError, match="no weights file"):
        EmbeddedModel(tmp_path / "missing.gguf").start()


@pytest.mark.local
async def test_it_answers_on_the_loopback_interface_with_usage(model):
    assert httpx.URL(model.base_url).host == "127.0.0.1"
    async with model.client() as client:
        done = await client.complete(HELLO, max_tokens=4, confidence=True)
    assert done.text
    assert done.output_tokens <= 4
    assert done.input_tokens > 0
    assert done.confidence is not None
    assert 0 < done.confidence <= 1


@pytest.mark.local
async def test_a_stream_is_the_same_text_as_the_whole(model):
    async with model.client() as client:
        # The first call fills the cache: from the same state on, rounding is the same too.
        await client.complete(HELLO, max_tokens=12)
        whole = await client.complete(HELLO, max_tokens=12, confidence=True)
        pieces = [piece async for piece in client.stream(HELLO, max_tokens=12, confidence=True)]
    assert len(pieces) > 2
    assert "".join(pieces[:-1]) == whole.text == pieces[-1].text
    assert (pieces[-1].input_tokens, pieces[-1].output_tokens) == (
        whole.input_tokens,
        whole.output_tokens,
    )
    assert pieces[-1].confidence == pytest.approx(whole.confidence, rel=1e-2)


@pytest.mark.local
async def test_a_prompt_beyond_the_context_is_refused_and_the_next_one_answered(model):
    async with model.client() as client:
        with pytest.raises(ModelClientError, match="context"):
            await client.complete([{"role": "user", "content": "word " * 3000}], max_tokens=4)
        assert (await client.complete(HELLO, max_tokens=2)).text


@pytest.mark.local
async def test_a_killed_process_is_an_error_for_its_callers_and_starts_anew(gguf):
    async with EmbeddedModel(gguf, slots=1, context=512, threads=1) as model:
        first = model.pid
        async with model.client() as client:
            os.kill(first, signal.SIGKILL)
            with pytest.raises(ModelClientError, match="start it again"):
                await client.complete(HELLO, max_tokens=500)
        deadline = time.monotonic() + 10
        while model.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not model.running
        await model.astart()
        assert model.pid != first
        async with model.client() as client:
            assert (await client.complete(HELLO, max_tokens=2)).text
        second = model.pid
    assert not model.running
    assert not alive(second)


@pytest.mark.local
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_it_does_not_outlive_the_process_that_started_it(gguf):
    script = (
        "import os, sys\n"
        "from wye.gateway.pool import EmbeddedModel\n"
        "model = EmbeddedModel(sys.argv[1], slots=1, context=256, threads=1).start()\n"
        "print(model.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(gguf)], capture_output=True, text=True, timeout=100
    )
    pid = int(ran.stdout)
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


@pytest.mark.local
def test_it_writes_nothing_on_the_screen(gguf):
    script = (
        "import sys\n"
        "from wye.gateway.pool import EmbeddedModel\n"
        "with EmbeddedModel(sys.argv[1], slots=1, context=256, threads=1): pass\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(gguf)], capture_output=True, timeout=100
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
