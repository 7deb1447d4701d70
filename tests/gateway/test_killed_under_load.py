"""A gateway killed twenty times in the middle of a thousand requests that spend one budget."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy as sa

from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.schema import connect

KILLS = 20
REQUESTS = 1000
# What `outside_world` reports at the prices below, in nanodollars; it is known before the call.
COST = 11 * 1000 + 6 * 2000
# Each kill books what the requests in flight could have cost at most, about $0.28 for all of them.
BUDGET = 3_000_000_000
BODY = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "6 x 7?"}]}


@pytest.fixture
def config(tmp_path, world) -> Path:
    path = tmp_path / "wye.toml"
    path.write_text(
        f"""
[store]
path = "wye.db"
batch_seconds = 0.05
max_pending = 2000

[policies.quality]
kind = "quality"

[[targets]]
name = "ok@killed-under-load"
base_url = "{world.base_url}"
price_in_per_mtok = 1.0
price_out_per_mtok = 2.0
"""
    )
    return path


async def _ask_until_it_dies(
    url: str, secret: str, process: subprocess.Popen, answers: int
) -> list[int]:
    """Send all at once, kill the gateway after so many answers; the statuses that came whole."""
    came: list[int] = []
    session = aiohttp.ClientSession(
        headers={"authorization": f"Bearer {secret}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=60),
    )

    async def ask() -> None:
        try:
            async with session.post(f"{url}/v1/chat/completions", json=BODY) as response:
                await response.read()
        except aiohttp.ClientError:
            return
        came.append(response.status)
        if len(came) == answers:
            process.send_signal(signal.SIGKILL)

    async with session:
        await asyncio.gather(*(ask() for _ in range(REQUESTS)))
    return came


def test_no_spend_is_lost_and_no_budget_exceeded(config, running, world):
    store = config.parent / "wye.db"
    engine = connect(store)
    key, secret = KeyBook(engine).add("shared", Limits(budget_total=BUDGET / 1e9))
    generator = random.Random(7)
    served, spent, statuses = 0, 0, set()

    def balance():
        with engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
            return Books("test").balance(connection, key.id)

    for _ in range(KILLS):
        with running(config) as (process, url):
            answers = generator.randrange(20, REQUESTS - 20)
            came = asyncio.run(_ask_until_it_dies(url, secret, process, answers))
            process.wait(20)
        assert len(came) >= answers
        served += came.count(200)
        statuses.update(came)
        left = balance()
        assert left.total_spent >= spent
        assert left.total_spent + left.total_reserved <= BUDGET
        spent = left.total_spent
    # A last start books what the dead ones had set aside.
    with running(config) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    after = balance()
    engine.dispose()
    assert after.total_reserved == 0
    assert len(world.seen("ok@killed-under-load")) * COST <= after.total_spent <= BUDGET
    assert served * COST <= after.total_spent
    assert statuses == {200, 429}
