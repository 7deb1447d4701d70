"""How fast the dashboard is with a long past: every endpoint over HTTP, of a real gateway.

    python bench/gateway/dashboard.py [--decisions 100000] [--rounds 40] [--store FILE]

Fills a store (or takes `--store`, filled before), starts a gateway on it as a process of its own,
and asks every endpoint that a page asks, one request after another. p50 and p95 are what a browser
waits; the ratio is p95 to its limit, 200 ms a page and 5 ms a decision. On a machine that is busy
elsewhere the processor's time says more: it is that of the gateway's process, a request. The first
request of each is left out: it reads the file into the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from history import config_of, write_history

from wye.gateway.schema import connect

PAGE_MS, LOOKUP_MS = 200.0, 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
_SERVE = """
import sys
from rich.console import Console
from wye.gateway.server import serve
serve(sys.argv[1], port=0, console=Console())
"""
_TOML = """
[[targets]]
name = "{name}"
model = "{model}"
base_url = "http://127.0.0.1:9/v1"
"""


@contextmanager
def gateway(folder: Path, store: Path) -> Iterator[tuple[int, str]]:
    """A gateway's process id and address."""
    from history import POLICIES, TARGETS

    targets = "".join(_TOML.format(name=name, model=model) for name, model, *_ in TARGETS)
    text = f'default_policy = "utility"\nbaseline = "large"\n{targets}{POLICIES}'
    (folder / "wye.toml").write_text(f"{text}[store]\npath = {json.dumps(str(store))}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder / "wye.toml")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"dashboard +(http://\S+)/", line):
                yield process.pid, found[1]
                return
        sys.exit("the gateway did not start; what it logged above says why")
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def always(path: str) -> Callable[[int], str]:
    """The same path in every round."""
    return lambda _: path


def endpoints(client: httpx.Client, until: float) -> dict[str, tuple[Callable[[int], str], float]]:
    """What is asked, by its name: the path of each round, and the limit in milliseconds."""
    week, month = until - 7 * 86400, until - 30 * 86400
    rows = client.get("/api/decisions?limit=1000").json()["data"]
    deep = client.get(f"/api/decisions?limit=1&until={until - 20 * 86400}").json()["data"][0]["id"]
    keys = [key["id"] for key in client.get("/api/keys").json()["keys"]]
    some = [row["id"] for row in rows[:: max(1, len(rows) // 50)]]
    sessions = [row["session"] for row in rows if row["session"]]
    pages = {
        "summary, a week": f"/api/summary?since={week}",
        "summary, all": "/api/summary",
        "series, a month": f"/api/series?bucket=21600&since={month}",
        "series, all": "/api/series?bucket=3600",
        "targets": "/api/targets",
        "decisions, latest": "/api/decisions?limit=25",
        "decisions, deep": f"/api/decisions?limit=25&before={deep}",
        "decisions by target": "/api/decisions?limit=25&target=nano",
        "decisions by policy": "/api/decisions?limit=25&policy=explore",
        "decisions by status": "/api/decisions?limit=25&status=error",
        "decisions by key": f"/api/decisions?limit=25&key={keys[-1]}",
        "decisions by session": f"/api/decisions?limit=25&session={sessions[0]}",
        "decisions by surface": "/api/decisions?limit=25&surface=messages",
        "decisions by text": "/api/decisions?limit=25&text=capital",
        "decisions by text, none": "/api/decisions?limit=25&text=nobody+asked+this",
        "decisions in a time": f"/api/decisions?limit=25&since={week}&until={week + 3600}",
        "names": "/api/names",
        "keys": "/api/keys",
        "frontier": "/api/frontier",
        "calibration": "/api/calibration",
        "alarms": "/api/alarms",
        "playground": "/api/playground",
    }
    found: dict[str, tuple[Callable[[int], str], float]] = {
        name: (always(path), PAGE_MS) for name, path in pages.items()
    }
    found["replay of a decision"] = (
        lambda k: f"/api/decisions/{some[k % len(some)]}/replay?policy=thrifty",
        PAGE_MS,
    )
    found["a decision"] = (lambda k: f"/api/decisions/{some[k % len(some)]}", LOOKUP_MS)
    return found


def measure(url: str, pid: int, rounds: int, until: float) -> bool:
    """Ask everything, print it, and say whether every limit held."""
    held = True
    print(f"{'endpoint':<26}{'p50 ms':>9}{'p95 ms':>9}{'p95/limit':>11}{'cpu ms':>9}{'kB':>7}")
    with httpx.Client(base_url=url, timeout=60) as client:
        for name, (path, limit) in endpoints(client, until).items():
            size = len(client.get(path(0)).raise_for_status().content)
            seconds, busy = np.empty(rounds), processor_seconds(pid)
            for k in range(rounds):
                began = time.perf_counter()
                client.get(path(k)).raise_for_status()
                seconds[k] = time.perf_counter() - began
            busy = (processor_seconds(pid) - busy) / rounds * 1e3
            p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
            held &= p95 < limit
            ratio = f"{p95 / limit:.2f}{' !' if p95 >= limit else ''}"
            print(f"{name:<26}{p50:>9.1f}{p95:>9.1f}{ratio:>11}{busy:>9.1f}{size / 1e3:>7.0f}")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--store", type=Path, help="a store that bench/gateway/history.py filled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, until = Path(name), time.time()
        store = options.store or folder / "gateway.db"
        if options.store is None:
            engine = connect(store)
            config = config_of(str(store), "http://127.0.0.1:9/v1")
            judged = write_history(engine, config, options.decisions, days=30, until=until)
            engine.dispose()
            print(f"{options.decisions} decisions, {judged} judged")
        with gateway(folder, store) as (pid, url):
            held = measure(url, pid, options.rounds, until)
    print("every limit held" if held else "a limit did not hold (!)")


if __name__ == "__main__":
    main()
