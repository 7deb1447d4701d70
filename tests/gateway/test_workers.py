"""`wye serve --workers`: several processes on one address, and what is told of them as one."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from wye.cli import app
from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.schema import connect

# What `outside_world` reports at the prices of its targets, in nanodollars.
COST = 11 * 1000 + 6 * 2000
WORKERS = 2
QUESTION = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "hi"}]}


class Gang:
    """A `wye serve` with several workers, and what it says."""

    def __init__(self, config: Path, *options: str) -> None:
        arguments = ["serve", "--config", str(config), "--port", "0", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from wye.cli import main; main()", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self._serves = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if line.startswith("next: "):
                self._serves.set()
        self._serves.set()

    def wait_until_it_serves(self) -> Gang:
        assert self._serves.wait(60)
        found = [re.match(r"dashboard +(http://\S+)/", line) for line in self.said]
        urls = [one[1] for one in found if one]
        assert len(urls) == 1, self.said
        self.url = urls[0]
        return self

    def client(self, **given) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=False, timeout=30, **given)

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, so that any worker may answer."""
        return httpx.get(f"{self.url}{path}", verify=False, timeout=30)

    def health(self) -> dict:
        return self.get("/healthz").json()

    def pids(self, eventually) -> dict[str, int]:
        """The process of each worker, once every worker tells the same."""
        found: list[dict[str, int]] = []

        def agreed() -> bool:
            found[:] = [health["workers"]["pids"] for health in self.by_worker().values()]
            return len(found) == len(found[0]) == WORKERS and found.count(found[0]) == WORKERS

        eventually(agreed, 40)
        return found[0]

    def replaced(self, number: str, pid: int) -> bool:
        """Whether another process has the place of a worker."""
        return self.health()["workers"]["pids"].get(number) not in (None, pid)

    def by_worker(self, workers: int = WORKERS) -> dict[int, dict]:
        """The latest word of `/healthz` from each worker that answers, of a hundred asked."""
        found: dict[int, dict] = {}
        for _ in range(100):
            health = self.health()
            found[health["workers"]["answering"]] = health
            if len(found) == workers:
                break
        return found

    def metric(self, name: str) -> float:
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.M)
        return sum(map(float, lines))

    def end(self) -> int:
        """Wait for the end that something else brings about."""
        code = self.process.wait(40)
        self._reader.join(20)
        assert not self._reader.is_alive(), "somebody still holds standard error"
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        # It ends when the last worker has gone.
        self._reader.join(20)
        self.process.stderr.close()


@contextmanager
def gang(config: Path) -> Iterator[Gang]:
    started = Gang(config, "--workers", str(WORKERS))
    try:
        yield started.wait_until_it_serves()
    finally:
        started.kill()


def write(folder: Path, world, more: str = "", targets: tuple[str, ...] = ("ok",)) -> Path:
    text = '[store]\npath = "log.db"\nbatch_seconds = 0.05\n'
    text += '[policies.quality]\nkind = "quality"\n'
    for name in targets:
        text += f'[[targets]]\nname = "{name}"\nbase_url = "{world.base_url}"\n'
        text += "price_in_per_mtok = 1.0\nprice_out_per_mtok = 2.0\n"
    path = folder / "wye.toml"
    path.write_text(text + more)
    return path


def ask(client: httpx.Client, model: str = "wye", **fields) -> httpx.Response:
    return client.post("/v1/chat/completions", json={**QUESTION, "model": model, **fields})


NAMES = ("ok@workers", "slow-stream@workers", "hang@workers", "500@workers")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, world) -> Path:
    """A configuration that asks for workers itself, and is read again in a test."""
    folder = tmp_path_factory.mktemp("workers")
    server = f"[server]\nworkers = {WORKERS}\n[breaker]\nfailures = 1\ncooldown = 300\n"
    return write(folder, world, server, NAMES)


@pytest.fixture(scope="module")
def shared(shop) -> Iterator[Gang]:
    started = Gang(shop)
    try:
        yield started.wait_until_it_serves()
    finally:
        started.kill()


def test_every_worker_answers_and_each_is_a_process_of_its_own(shared, eventually):
    pids = set(shared.pids(eventually).values())
    assert len(pids) == WORKERS
    assert shared.process.pid not in pids
    for pid in pids:
        os.kill(pid, 0)
    assert [line for line in shared.said if line.startswith("workers ")] == [
        f"workers     {WORKERS} processes"
    ]


def test_a_budget_is_exact_over_the_workers_and_a_scrape_tells_of_all(shared, shop, world):
    engine = connect(shop.parent / "log.db")
    key, secret = KeyBook(engine).add("shared", Limits(budget_day=0.002))
    headers = {"authorization": f"Bearer {secret}"}
    answering: set[int] = set()

    async def spend() -> list[int]:
        async def one() -> list[int]:
            async with httpx.AsyncClient(
                base_url=shared.url, headers=headers, verify=False, timeout=60
            ) as client:
                body = {**QUESTION, "model": NAMES[0]}
                came = [await client.post("/v1/chat/completions", json=body) for _ in range(5)]
                health = (await client.get("/healthz")).json()
                answering.add(health["workers"]["answering"])
                return [answer.status_code for answer in came]

        found = await asyncio.gather(*(one() for _ in range(40)))
        return [status for statuses in found for status in statuses]

    before = shared.metric("wye_cost_usd_total")
    statuses = asyncio.run(spend())
    served = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert answering == {1, 2}
    assert len(world.seen(NAMES[0])) == served
    with engine.connect() as connection:
        balance = Books("test").balance(connection, key.id)
    engine.dispose()
    assert (balance.day_spent, balance.total_reserved) == (served * COST, 0)
    assert balance.day_spent <= 2_000_000
    assert round((shared.metric("wye_cost_usd_total") - before) * 1e9) == served * COST


def test_a_decision_is_known_to_every_worker_once_its_answer_is_there(shared, shop):
    engine = connect(shop.parent / "log.db")
    _, secret = KeyBook(engine).add("asks")
    engine.dispose()
    headers = {"authorization": f"Bearer {secret}"}
    for _ in range(10):
        with shared.client(headers=headers) as one, shared.client(headers=headers) as other:
            decision = ask(one, NAMES[0]).headers["x-wye-decision"]
            body = {"decision": decision, "quality": 1.0}
            assert other.post("/v1/feedback", json=body).status_code == 200
            assert one.get(f"/v1/decisions/{decision}").status_code == 200
    with shared.client(headers=headers) as client:
        assert client.get(f"/v1/decisions/{decision}x").status_code == 404


def test_what_is_going_on_is_told_of_all_workers_and_not_of_the_dead(shared, shop, eventually):
    engine = connect(shop.parent / "log.db")
    _, secret = KeyBook(engine).add("hangs")
    engine.dispose()
    headers = {"authorization": f"Bearer {secret}"}
    left: list[type[Exception]] = []

    def wait() -> None:
        with shared.client(headers=headers) as client:
            try:
                ask(client, NAMES[2])
            except httpx.HTTPError as error:
                left.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    tells = ("wye_requests_in_flight", "wye_places_running", "wye_deployment_in_flight")
    for name in tells:
        eventually(lambda name=name: shared.metric(name) == 8)
    eventually(lambda: all(h["requests"]["running"] == 8 for h in shared.by_worker().values()))
    for pid in shared.pids(eventually).values():
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(left) == 8
    for name in tells:
        eventually(lambda name=name: shared.metric(name) == 0, 30)


def test_a_target_that_one_worker_leaves_alone_is_told_by_all(shared, shop, eventually):
    engine = connect(shop.parent / "log.db")
    _, secret = KeyBook(engine).add("fails")
    engine.dispose()
    with shared.client(headers={"authorization": f"Bearer {secret}"}) as client:
        assert ask(client, NAMES[3]).status_code >= 500
    eventually(
        lambda: (
            {h["targets"][NAMES[3]] for h in shared.by_worker().values()} == {"open"}
            and len(shared.by_worker()) == WORKERS
        )
    )
    assert re.search(
        rf'^wye_circuit_open{{target="{NAMES[3]}"}} 1.0$', shared.get("/metrics").text, re.M
    )


def test_a_killed_worker_is_replaced_under_load_and_no_count_goes_back(shared, shop, eventually):
    engine = connect(shop.parent / "log.db")
    _, secret = KeyBook(engine).add("loads")
    engine.dispose()
    stop = threading.Event()
    statuses: list[int] = []

    def keep_asking() -> None:
        client = shared.client(headers={"authorization": f"Bearer {secret}"})
        while not stop.is_set():
            try:
                statuses.append(ask(client, NAMES[0]).status_code)
            except httpx.HTTPError:
                # Its worker was killed; the next connection goes to another.
                client.close()
                client = shared.client(headers={"authorization": f"Bearer {secret}"})
        client.close()

    counted = [shared.metric("wye_requests_total")]
    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    pid = shared.pids(eventually)["1"]
    eventually(lambda: len(statuses) > 20)
    counted.append(shared.metric("wye_requests_total"))
    os.kill(pid, signal.SIGKILL)
    counted.append(shared.metric("wye_requests_total"))
    asked = len(statuses)
    eventually(lambda: len(statuses) > asked + 20)

    def replaced() -> bool:
        counted.append(shared.metric("wye_requests_total"))
        return shared.replaced("1", pid)

    eventually(replaced, 30)
    stop.set()
    for thread in threads:
        thread.join()
    counted.append(shared.metric("wye_requests_total"))
    assert counted == sorted(counted)
    assert set(statuses) == {200}
    assert counted[-1] - counted[0] >= len(statuses)
    assert any(f"(process {pid}) was ended by SIGKILL" in line for line in shared.said)


def test_a_configuration_is_read_again_by_every_worker_and_by_later_ones(shared, shop, eventually):
    (before,) = {health["policy"]["digest"] for health in shared.by_worker().values()}
    text = shop.read_text()
    shop.write_text(text.replace('kind = "quality"', 'kind = "utility"\ncost_weight = 3.0'))
    shared.process.send_signal(signal.SIGHUP)

    def digests() -> list[str]:
        return [health["policy"]["digest"] for health in shared.by_worker().values()]

    eventually(lambda: len(digests()) == WORKERS and before not in digests(), 30)
    (after,) = set(digests())
    old = shared.pids(eventually)["2"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: shared.replaced("2", old), 30)
    eventually(lambda: len(digests()) == WORKERS and set(digests()) == {after}, 30)
    shop.write_text("[[")
    shared.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: (
            all(h["policy"]["error"] for h in shared.by_worker().values())
            and set(digests()) == {after}
        )
    )
    shop.write_text(text)


def test_stopping_drains_the_streams_of_all_workers(tmp_path, world):
    config = write(tmp_path, world, targets=("slow-stream@drained",))
    with gang(config) as started:
        (folder,) = _open_folders(started.process.pid)
        clients = [started.client() for _ in range(4)]
        streams = [
            client.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True})
            for client in clients
        ]
        lines = [stream.__enter__().iter_lines() for stream in streams]
        for each in lines:
            next(each)
        started.process.send_signal(signal.SIGTERM)
        for each in lines:
            assert [line for line in each if line][-1] == "data: [DONE]"
        for stream, client in zip(streams, clients, strict=True):
            stream.__exit__(None, None, None)
            client.close()
        assert started.end() == 0
        assert "error" not in "".join(started.said)
    assert not folder.exists()
    engine = connect(tmp_path / "log.db")
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select status from outcomes").scalars().all()
    engine.dispose()
    assert rows == ["ok"] * 4


def _open_folders(parent: int) -> set[Path]:
    """Where the workers of a parent share what they count."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in listed)
    return {Path(found).parent for found in re.findall(r"\S+/counter_\d+\.db", maps)}


def test_a_worker_that_hangs_is_replaced_and_all_stop_when_their_parent_is_killed(
    tmp_path, world, eventually
):
    config = write(tmp_path, world, "[server]\nworker_seconds = 5\n")
    with gang(config) as started:
        old = started.pids(eventually)["2"]
        os.kill(old, signal.SIGSTOP)

        def replaced() -> bool:
            # What the one that hangs has accepted is lost with it.
            try:
                health = httpx.get(f"{started.url}/healthz", verify=False, timeout=1).json()
            except httpx.HTTPError:
                return False
            return health["workers"]["pids"].get("2") not in (None, old)

        eventually(replaced, 40)
        assert sum("was silent for 5 s and is ended" in line for line in started.said) == 1
        with started.client() as client:
            assert ask(client).status_code == 200
        (folder,) = _open_folders(started.process.pid)
        host, port = started.url.removeprefix("http://").split(":")
        started.kill()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind((host, int(port)))
            again.listen()
        assert not folder.exists()


def limit_files(pids: list[int], most: int) -> None:
    """Have a disk that is full for processes: no file of theirs grows beyond so many bytes."""
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def test_on_a_full_disk_workers_go_on_add_their_losses_and_wait_with_who_cannot_start(
    tmp_path, world, eventually
):
    config = write(tmp_path, world)
    text = config.read_text().replace("batch_seconds", "max_pending = 5\nbatch_seconds")
    config.write_text(text)
    body = [{"role": "user", "content": "x" * 20_000}]
    with gang(config) as started:
        pids = started.pids(eventually)

        def served() -> int:
            with started.client() as client:
                return ask(client, messages=body).status_code

        def lossy() -> bool:
            assert {served() for _ in range(10)} == {200}
            return started.metric("wye_store_lost_records") > 20

        limit_files([started.process.pid, *pids.values()], 3000)
        eventually(lossy, 30)
        assert started.health()["status"] == "degraded"
        lost = started.metric("wye_store_lost_records")
        os.kill(pids["1"], signal.SIGTERM)
        said = "worker 1 cannot be replaced for now"
        eventually(lambda: any(said in line for line in started.said), 30)
        assert served() == 200
        assert started.metric("wye_store_lost_records") >= lost
        # There is room again, for the parent and whom it starts.
        limit_files([started.process.pid], resource.RLIM_INFINITY)
        eventually(lambda: started.replaced("1", pids["1"]), 30)
        assert started.metric("wye_store_lost_records") >= lost
        # Without any worker there is nothing to wait for.
        pids = started.pids(eventually)
        for name in ("log.db", "log.db-wal", "log.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "log.db").mkdir()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        assert started.end() == 2
        assert sum("no worker is left" in line for line in started.said) == 1


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_workers_share_a_database_and_come_up_on_an_empty_one(tmp_path, world, place, eventually):
    model = "ok@workers-postgresql"
    config = write(tmp_path, world, targets=(model,))
    config.write_text(config.read_text().replace('path = "log.db"', f'url = "{place}"'))
    with gang(config) as started:
        assert len(started.pids(eventually)) == WORKERS
        engine = connect(place)
        _, secret = KeyBook(engine).add("shared", Limits(budget_day=0.001))
        headers = {"authorization": f"Bearer {secret}"}
        statuses: list[int] = []

        def spend() -> None:
            with started.client(headers=headers) as client:
                statuses.extend(ask(client).status_code for _ in range(10))

        threads = [threading.Thread(target=spend) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
        with engine.connect() as connection:
            query = "select count(*) from outcomes where status = 'ok'"
            answered = connection.exec_driver_sql(query).scalar_one()
        engine.dispose()
    served = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert served == len(world.seen(model)) == answered
    assert served * COST <= 1_000_000


def refused(config: Path, *options: str) -> list[str]:
    """What a command says that must end by itself."""
    started = Gang(config, "--workers", "3", *options)
    try:
        assert started.end() == 2
        return started.said
    finally:
        started.kill()


def test_a_start_that_fails_ends_the_command_with_its_reason_once(tmp_path, world):
    (tmp_path / "log.db").write_bytes(b"no database " * 1000)
    said = refused(write(tmp_path, world))
    assert sum("error:" in line for line in said) == 1, said
    assert "log.db" in "".join(said)
    assert "Traceback" not in "".join(said)


def test_a_router_that_is_not_there_ends_the_command_with_its_reason_once(tmp_path, world):
    said = refused(write(tmp_path, world, '[router]\npath = "nowhere"\n'))
    assert sum("nowhere" in line for line in said) == 1, said
    assert not any(line.startswith("dashboard") for line in said)


def test_a_taken_port_is_said_before_a_worker_is_started(tmp_path, world):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(write(tmp_path, world), "--port", str(port))
    assert any(f"port {port} is taken" in line for line in said)
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0", "`workers` is 0: it should be greater than or equal to 1; for instance workers = 4"),
        ("-1", "`workers` is -1: it should be greater than or equal to 1"),
        ("10000", "`workers` is 10000: it should be less than or equal to 256"),
        ("two", "Invalid value for '--workers'"),
    ],
)
def test_an_impossible_number_of_workers_is_refused(tmp_path, world, given, expected):
    config = write(tmp_path, world)
    ran = CliRunner().invoke(app, ["serve", "--config", str(config), "--workers", given])
    assert expected in f"{ran.output} {ran.exception}"
    assert ran.exit_code != 0
    assert not (tmp_path / "log.db").exists()


def test_workers_are_not_for_ray(tmp_path, world):
    config = str(write(tmp_path, world))
    ran = CliRunner().invoke(app, ["serve", "--config", config, "--workers", "2", "--ray"])
    assert "with --ray give --replicas" in str(ran.exception)


def test_an_embedded_model_is_not_started_many_times(tmp_path, world):
    more = '[[targets]]\nname = "direct"\nkind = "embedded"\n[server]\nworkers = 2\n'
    config = write(tmp_path, world, more)
    ran = CliRunner().invoke(app, ["serve", "--config", str(config)])
    assert "the target direct is embedded" in str(ran.exception)
    assert "so it is not started 2 times" in str(ran.exception)


def test_one_process_loads_nothing_of_many(tmp_path, world):
    code = (
        "import sys\n"
        "from prometheus_client import values\n"
        "from wye.gateway.config_file import read_config\n"
        "from wye.gateway.server import application\n"
        "app = application(read_config(sys.argv[1]), None, print)\n"
        "assert not [name for name in sys.modules if name.startswith('wye.gateway.workers')]\n"
        "assert values.ValueClass is values.MutexValue\n"
        "app.state.gateway.store.close()\n"
        "print('alone')\n"
    )
    config = str(write(tmp_path, world))
    ran = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True)
    assert ran.stdout.endswith("alone\n"), ran.stderr
