"""Budgets that outlive a gateway: killed, two on one store, out of disk."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import httpx
import pytest

from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.schema import connect

# What `outside_world` reports at the prices below, in nanodollars.
COST = 11 * 1000 + 6 * 2000
BODY = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "6 x 7?"}]}


class Shop:
    """A folder with a configuration, a store and one key."""

    def __init__(self, folder: Path, place: Path | str, world, model: str, **limits) -> None:
        where = "path" if isinstance(place, Path) else "url"
        self.config = folder / "wye.toml"
        self.config.write_text(
            f"""
[store]
{where} = "{place}"
batch_seconds = 0.05

[policies.quality]
kind = "quality"

[[targets]]
name = "{model}"
base_url = "{world.base_url}"
price_in_per_mtok = 1.0
price_out_per_mtok = 2.0
"""
        )
        self.engine = connect(place)
        self.book = KeyBook(self.engine)
        self.key, self.secret = self.book.add("shared", Limits(**limits))

    def client(self, url: str, secret: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {secret or self.secret}"}
        return httpx.Client(base_url=url, headers=headers, verify=False, timeout=30)

    def balance(self):
        with self.engine.connect() as connection:
            return Books("test").balance(connection, self.key.id)


@pytest.fixture
def shop(tmp_path, place, world):
    made = []

    def make(model: str, **limits) -> Shop:
        made.append(Shop(tmp_path, place, world, model, **limits))
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()


def mine_of(place: Path | str) -> str:
    return "sqlite" if isinstance(place, Path) else "postgresql"


def ask(client: httpx.Client, text: str = "6 x 7?") -> int:
    body = {**BODY, "messages": [{"role": "user", "content": text}]}
    return client.post("/v1/chat/completions", json=body).status_code


def test_two_gateways_on_one_store_share_a_budget(running, shop, world, place):
    model = f"ok@two-{mine_of(place)}"
    mine = shop(model, budget_day=0.002)

    async def spend(urls: list[str]) -> list[int]:
        headers = {"authorization": f"Bearer {mine.secret}"}
        async with httpx.AsyncClient(headers=headers, verify=False, timeout=60) as client:

            async def one(number: int) -> list[int]:
                url = f"{urls[number % 2]}/v1/chat/completions"
                return [(await client.post(url, json=BODY)).status_code for _ in range(3)]

            found = await asyncio.gather(*map(one, range(64)))
        return [status for statuses in found for status in statuses]

    with running(mine.config) as (first, one), running(mine.config) as (second, two):
        statuses = asyncio.run(spend([one, two]))
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    served = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert len(world.seen(model)) == served
    assert mine.balance().day_spent == served * COST
    assert mine.balance().total_reserved == 0
    assert served * COST <= 2_000_000


def test_a_gateway_killed_with_requests_in_flight_loses_no_spend_and_opens_no_budget(
    running, shop, world, place, eventually
):
    model = f"slow-stream@killed-{mine_of(place)}"
    mine = shop(model, budget_total=0.004)
    settled = 0
    for _ in range(2):
        with running(mine.config) as (process, url), mine.client(url) as client:
            assert ask(client) in (200, 429)
            eventually(lambda: mine.balance().total_reserved == 0)
            assert mine.balance().total_spent >= settled
            threads = [
                threading.Thread(target=_stream_until_it_dies, args=(mine, url)) for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: mine.balance().total_reserved > 0)
            process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
            process.wait()
        left = mine.balance()
        assert left.total_reserved > 0
        # The next gateway that starts finds what the dead one had set aside, and books it.
        with running(mine.config) as (_, url):
            eventually(lambda: mine.balance().total_reserved == 0)
        after = mine.balance()
        assert after.total_spent == left.total_spent + left.total_reserved
        assert after.total_spent <= 4_000_000
        assert after.total_spent >= settled
        settled = after.total_spent
    assert len(world.seen(model)) * COST <= settled


def _stream_until_it_dies(mine: Shop, url: str) -> None:
    with mine.client(url) as client:
        try:
            client.post("/v1/chat/completions", json={**BODY, "stream": True})
        except httpx.HTTPError:
            return


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_on_a_full_disk_keys_with_budgets_are_refused_and_others_go_on(running, shop, eventually):
    mine = shop("ok", budget_day=1.0)
    _, free = mine.book.add("free", Limits(requests_per_minute=1000))
    with (
        running(mine.config, file_limit=600_000) as (_, url),
        mine.client(url) as client,
        mine.client(url, free) as unbudgeted,
    ):
        assert ask(client) == 200
        eventually(lambda: _fills(unbudgeted))
        eventually(lambda: ask(client) == 503)
        body = client.post("/v1/chat/completions", json=BODY)
        assert body.json()["error"]["code"] == "ledger_unavailable"
        assert "cannot be written" in body.json()["error"]["message"]
        assert int(body.headers["retry-after"]) > 0
        assert ask(unbudgeted) == 200
        eventually(lambda: _says_so(client))


def health_of(url: str) -> dict:
    return httpx.get(f"{url}/healthz", timeout=30).json()


def _says_so(client: httpx.Client) -> bool:
    """Whether a reservation fails and health tells why; the last free page may still take one."""
    return ask(client) == 503 and client.get("/healthz").json()["ledger"]["error"] is not None


def _fills(client: httpx.Client) -> bool:
    assert ask(client, "x" * 20_000) == 200
    return not client.get("/healthz").json()["store"]["ok"]


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_database_killed_in_the_middle_of_traffic_is_served_through_and_counts_right(
    running, shop, world, postgresql, eventually
):
    """Two gateways, keys with a budget and without, and a server that dies and comes back."""
    model = "ok@database-dies"
    mine = shop(model, budget_total=5.0)
    _, free = mine.book.add("free", Limits(targets=(model,)))
    stop = threading.Event()
    statuses: dict[str, list[int]] = {mine.secret: [], free: []}

    def keep_asking(url: str, secret: str) -> None:
        with mine.client(url, secret) as client:
            while not stop.is_set():
                statuses[secret].append(ask(client))

    with running(mine.config) as (_, one), running(mine.config) as (_, two):
        threads = [
            threading.Thread(target=keep_asking, args=(url, secret))
            for url in (one, two)
            for secret in (mine.secret, free, mine.secret)
        ]
        for thread in threads:
            thread.start()
        for _ in range(2):
            known = len(statuses[mine.secret]), len(statuses[free])
            eventually(lambda known=known: len(statuses[mine.secret]) > known[0] + 20)
            # At once, without a word to anybody: what a crash leaves.
            postgresql.crash()
            eventually(lambda: 503 in statuses[mine.secret])
            before = len(statuses[free])
            eventually(lambda before=before: len(statuses[free]) > before + 5)
            assert health_of(one)["ledger"]["error"]
            postgresql.start()
            until = len(statuses[mine.secret])
            eventually(lambda until=until: 200 in statuses[mine.secret][until:], 30)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses[free]) == {200}
        assert set(statuses[mine.secret]) == {200, 503}
        served = statuses[mine.secret].count(200)
        eventually(lambda: mine.balance().total_reserved == 0)
        assert mine.balance().total_spent == served * COST
        assert all(health_of(url)["store"]["lost"] == 0 for url in (one, two))
    assert len(world.seen(model)) == served + len(statuses[free])
