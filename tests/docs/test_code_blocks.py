"""Every code block of README.md and docs/ runs as it stands, in the order in which it is read."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVERS = ("make up", "wye up", "wye serve")
ADDRESS = "http://127.0.0.1:8484"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    content = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(content):
        line = content.count("\n", 0, match.start()) + 1
        yield Block(page, line, match.group(1), match.group(2))


class Reader:
    """Somebody who follows a page from top to bottom in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        binaries = str(Path(sys.executable).parent)
        self.environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state"),
            "OPENAI_API_KEY": "not-a-real-key",
            "COLUMNS": "100",
        }

    def follow(self, block: Block) -> None:
        match block.language:
            case "bash":
                self._shell(block)
            case "python":
                self._run([sys.executable, "-c", block.text], block)
            case "toml":
                self._toml(block)
            case "json":
                json.loads(block.text)
            case "text":
                pass
            case other:
                pytest.fail(f"{block.place}: a block of language {other!r} that no test runs")

    def _shell(self, block: Block) -> None:
        commands = block.text.strip()
        if commands == "make test":
            assert "make test" in (ROOT / ".ci/run").read_text()
        elif commands.startswith(SERVERS):
            self._serve(commands, block)
        else:
            self._run(["bash", "-euo", "pipefail", "-c", commands], block)

    def _toml(self, block: Block) -> None:
        from wye.gateway.config_file import read_config

        path = self.folder / "wye.toml"
        path.write_text(block.text, encoding="utf-8")
        read_config(path)

    def _run(self, command: list[str], block: Block) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (
            f"{block.place} failed with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )

    def _serve(self, command: str, block: Block) -> None:
        self.leave()
        log = self.folder / "server.log"
        with log.open("wb") as output:
            self.server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=ROOT if command.startswith("make") else self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.server.poll() is None:
            try:
                if httpx.get(f"{ADDRESS}/healthz", timeout=2).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.3)
        self.leave()
        pytest.fail(f"{block.place}: {command} did not serve {ADDRESS}\n{log.read_text()}")

    def leave(self) -> None:
        if self.server is None:
            return
        if self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGTERM)
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait(10)
            raise
        finally:
            self.server = None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_reader_who_follows_the_page_meets_no_error(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks_of(page):
            reader.follow(block)
    finally:
        reader.leave()
