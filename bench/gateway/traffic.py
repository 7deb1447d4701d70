"""The gateway under load, beside a bare pass-through (the limit) and LiteLLM's proxy (the peer).

    python bench/gateway/traffic.py [--litellm COMMAND] [--memory-requests 200000] [--workers N]

Needs wrk and hey, and for the peer its own environment:

    python -m venv peer && peer/bin/pip install "litellm[proxy]"
    python bench/gateway/traffic.py --litellm peer/bin/litellm

Every server runs one process, or as many as `--workers` says, and asks the same stub upstream, in a
process of its own. wye decides each request with the router and the embedder that `wye up` starts
with, over texts that differ, and stores every decision. Rounds of the servers alternate, so that a
machine that is busy elsewhere slows all of them; ratios are of medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_HERE = Path(__file__).parent
_KEY = "sk-bench"
# Three rounds of streams that last a second.
_SETTLING_SECONDS = 3.0


@dataclass
class Server:
    """A process that listens on `port`."""

    name: str
    port: int
    process: subprocess.Popen[str]
    model: str

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def memory_mb(self) -> float:
        """Resident memory in MiB, of its workers as well."""
        statuses = ((place / "status").read_text() for place in _family(self.process.pid))
        return sum(int(s.partition("VmRSS:")[2].split()[0]) for s in statuses) / 1024

    def processor_seconds(self) -> float:
        """Processor time that it has used, its workers' as well."""
        fields = [
            (place / "stat").read_text().rpartition(")")[2].split()
            for place in _family(self.process.pid)
        ]
        return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[Path]:
    """What the system tells of a process and of those that come from it."""
    place = Path(f"/proc/{pid}")
    children = (place / f"task/{pid}/children").read_text().split()
    return [place, *(one for child in children for one in _family(int(child)))]


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process, killed at the end."""
    started = subprocess.Popen(command, text=True, **options)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def script(name: str, *arguments: str, model: str = "wye") -> Iterator[Server]:
    """A script of this folder that prints its port."""
    command = [sys.executable, str(_HERE / f"{name}.py"), *arguments]
    with process(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        yield Server(name, int(started.stdout.readline()), started, model)


@contextlib.contextmanager
def wye(folder: Path, upstream: str, workers: int = 1) -> Iterator[Server]:
    """The gateway as `wye up` has it, with the stub in the place of the embedded pool."""
    from wye.data import load_embedded
    from wye.gateway.first_start import embedded_config
    from wye.query.learning.training import train

    data = load_embedded()
    config = embedded_config(data)
    router = folder / "router"
    # Trained here: the one that `wye up` keeps may come from another state of the code.
    train(data.part("train"), "auto").save(router)
    port = _free_port()
    lines = [
        f'[server]\nport = {port}\nworkers = {workers}\n[store]\npath = "{folder / "wye.db"}"',
        f'[router]\npath = "{router}"',
    ]
    for target in config.targets:
        price = (target.price_in_per_mtok or 0.1, target.price_out_per_mtok or 0.1)
        lines.append(
            f'[[targets]]\nname = "{target.name}"\nbase_url = "{upstream}/v1"\nmodel = "stub"\n'
            f"price_in_per_mtok = {price[0]}\nprice_out_per_mtok = {price[1]}"
        )
    policy = config.policies["balanced"].params["cost_weight"]
    lines.append(f'[policies.balanced]\nkind = "utility"\ncost_weight = {policy}')
    settings = folder / "wye.toml"
    settings.write_text("\n".join(lines) + "\n")
    command = [str(Path(sys.executable).with_name("wye")), "serve", "--config", str(settings)]
    log = (folder / "wye.log").open("w")
    with process(command, stdout=log, stderr=log) as started:
        gateway = _ready(Server("wye", port, started, "wye"), "/healthz", folder / "wye.log")
        while workers > 1 and len(_health(gateway)["workers"]["pids"]) < workers:
            time.sleep(0.2)
        yield gateway


def _health(gateway: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{gateway.url}/healthz", timeout=5).json()
    return found


@contextlib.contextmanager
def litellm(folder: Path, upstream: str, command: str, workers: int = 1) -> Iterator[Server]:
    """LiteLLM's proxy with one model and its own defaults, its log switched off."""
    port = _free_port()
    settings = folder / "litellm.yaml"
    settings.write_text(
        "model_list:\n"
        "  - model_name: stub\n"
        "    litellm_params:\n"
        f"      {{model: openai/stub, api_base: '{upstream}/v1', api_key: none}}\n"
        f"general_settings: {{master_key: {_KEY}}}\n"
        "litellm_settings: {telemetry: false}\n"
    )
    log = (folder / "litellm.log").open("w")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    arguments = [command, "--config", str(settings), "--port", str(port), "--host", "127.0.0.1"]
    arguments += ["--num_workers", str(workers)]
    with process(arguments, stdout=log, stderr=log, env=environment) as started:
        server = Server("litellm", port, started, "stub")
        yield _ready(server, "/health/liveliness", folder / "litellm.log")


def _ready(server: Server, path: str, log: Path) -> Server:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise SystemExit(f"{server.name} did not start:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(server.url + path, timeout=5).status_code == 200:
                return server
        time.sleep(0.2)
    raise SystemExit(f"{server.name} did not answer within 180 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bodies(folder: Path, model: str) -> Path:
    """One request a line, with the texts of the embedded outcomes."""
    from wye.data import load_embedded

    path = folder / f"bodies.{model}.jsonl"
    if not path.exists():
        texts = load_embedded().texts
        asks = ({"model": model, "messages": [{"role": "user", "content": t}]} for t in texts)
        path.write_text("".join(json.dumps(ask) + "\n" for ask in asks))
    return path


def load(
    server: Server, folder: Path, *, connections: int, seconds: float, pause_ms: float = 0.0
) -> dict[str, float]:
    """What wrk measures; the seconds of processor that the server used are added."""
    before = server.processor_seconds()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s",
         "-s", str(_HERE / "load.lua"), server.url, "--",
         str(bodies(folder, server.model)), str(pause_ms), _KEY],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON "))
    found: dict[str, float] = json.loads(line[5:])
    if found["errors"]:
        raise SystemExit(f"{server.name} failed {found['errors']:.0f} requests:\n{done.stdout}")
    if not found["requests"]:
        raise SystemExit(f"{server.name} answered nothing:\n{done.stdout}{done.stderr}")
    found["rate"] = found["requests"] / found["seconds"]
    found["processor_ms"] = 1e3 * (server.processor_seconds() - before) / found["requests"]
    return found


def first_bytes(server: Server, *, streams: int, rounds: int) -> list[float]:
    """Seconds to the first piece of each stream, with so many streams at once (hey).

    hey begins all at one moment, which measures a queue; every stream lasts equally long, so that
    they fall apart by themselves. What began in the first rounds is left out.
    """
    body = json.dumps(
        {
            "model": server.model,
            "stream": True,
            "messages": [{"role": "user", "content": "How long is the longest river?"}],
        }
    )
    done = subprocess.run(
        ["hey", "-n", str(streams * rounds), "-c", str(streams), "-t", "60", "-m", "POST",
         "-T", "application/json", "-H", f"Authorization: Bearer {_KEY}", "-d", body,
         "-o", "csv", f"{server.url}/v1/chat/completions"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if len(rows) < streams * rounds or any(row["status-code"] != "200" for row in rows):
        raise SystemExit(f"{server.name} held {len(rows)} of {streams * rounds} streams")
    settled = [row for row in rows if float(row["offset"]) > _SETTLING_SECONDS]
    return sorted(float(row["Response-delay"]) for row in settled)


def saturation(
    servers: list[Server], folder: Path, rounds: int, seconds: float
) -> dict[str, float]:
    """Requests per second of each server, the median over alternating rounds."""
    found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for server in servers:
        load(server, folder, connections=16, seconds=2)
    for _ in range(rounds):
        for server in servers:
            found[server.name].append(load(server, folder, connections=64, seconds=seconds))
    rates = {name: statistics.median(f["rate"] for f in runs) for name, runs in found.items()}
    print(
        "\n| server | requests/s | processor ms/request | p50 ms | p99 ms |\n|---|---|---|---|---|"
    )
    for name, runs in found.items():
        row = [statistics.median(run[k] for run in runs) for k in ("processor_ms", "p50", "p99")]
        print(
            f"| {name} | {rates[name]:.0f} | {row[0]:.2f} | {row[1] * 1e3:.1f} |"
            f" {row[2] * 1e3:.1f} |"
        )
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", help="the peer's command, in its own environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round")
    parser.add_argument("--workers", type=int, default=1, help="processes of each server")
    parser.add_argument("--streams", type=int, default=200, help="at once")
    parser.add_argument("--memory-requests", type=int, default=0, help="for growth of memory")
    given = parser.parse_args()
    for tool in ("wrk", "hey"):
        if shutil.which(tool) is None:
            raise SystemExit(
                f"{tool} is not on this machine; install it (Debian: apt install {tool})"
            )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stub = stack.enter_context(script("stub_upstream"))
        gateway = stack.enter_context(wye(folder, stub.url, given.workers))
        bare = stack.enter_context(script("bare_proxy", stub.url, f"--workers={given.workers}"))
        servers = [bare, gateway]
        if given.litellm:
            servers.append(
                stack.enter_context(litellm(folder, stub.url, given.litellm, given.workers))
            )
        rates = saturation(servers, folder, given.rounds, given.seconds)
        print(f"\nwye / bare pass-through: {rates['wye'] / rates['bare_proxy']:.2f} (target 0.40)")
        if given.litellm:
            print(f"wye / LiteLLM: {rates['wye'] / rates['litellm']:.1f} (target 20)")
        _latency([stub, bare, gateway], folder, rates["wye"] / 2, given)
        if given.litellm:
            _latency([stub, *servers], folder, rates["litellm"] / 2, given)
        _streams(gateway, bare, stub, given)
        if given.memory_requests:
            _memory(gateway, folder, given.memory_requests)


def _latency(servers: list[Server], folder: Path, rate: float, given: Any) -> None:
    """What each server adds to the stub's time, the first of them, at a rate of all together."""
    # Servers close connections that are idle for seconds.
    connections = max(4, min(64, int(rate / 4)))
    pause = 1e3 * connections / rate
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for server in servers:
            run = load(
                server, folder, connections=connections, seconds=given.seconds, pause_ms=pause
            )
            found.setdefault(server.name, []).append(run)
    print(f"\nat {statistics.median(r['rate'] for r in found['wye']):.0f} requests/s:")
    for which, target in (("p50", 1.0), ("p99", 5.0)):
        ms = {n: 1e3 * statistics.median(r[which] for r in runs) for n, runs in found.items()}
        stub, *others = (f"{name} {value:.2f}" for name, value in ms.items())
        added = ms["wye"] - ms[servers[0].name]
        print(
            f"{which}: {stub}, {', '.join(others)} ms; wye adds {added:.2f} ms"
            f" (target at half of saturation {target:g}, ratio {added / target:.2f})"
        )


def _streams(gateway: Server, bare: Server, stub: Server, given: Any) -> None:
    """Time to the first piece, one stream after another and many at once."""
    for streams in (1, given.streams):
        found: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for server in (stub, bare, gateway):
                found.setdefault(server.name, []).extend(
                    first_bytes(server, streams=streams, rounds=10)
                )
        ms = {name: 1e3 * statistics.median(values) for name, values in found.items()}
        added = ms["wye"] - ms["stub_upstream"]
        print(
            f"\n{streams} streams at once, first piece p50: stub {ms['stub_upstream']:.2f},"
            f" bare {ms['bare_proxy']:.2f}, wye {ms['wye']:.2f} ms; wye adds {added:.2f} ms"
            f" (target 1.5, ratio {added / 1.5:.2f})"
        )


def _memory(gateway: Server, folder: Path, requests: int) -> None:
    """Growth of the gateway's memory over many requests."""
    done, marks = 0, []
    while done < requests:
        done += int(load(gateway, folder, connections=64, seconds=10)["requests"])
        marks.append((done, gateway.memory_mb()))
        print(f"# {done} requests, {marks[-1][1]:.1f} MiB", flush=True)
    # Caches and pools fill first; growth is counted after a tenth of the requests.
    first = next(mb for number, mb in marks if number >= requests / 10)
    growth = marks[-1][1] / first - 1
    print(
        f"\nmemory over {done} requests: {first:.1f} -> {marks[-1][1]:.1f} MiB,"
        f" {growth:+.1%} (target < 5%)"
    )


if __name__ == "__main__":
    main()
