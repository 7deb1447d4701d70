"""What a reservation costs: one at a time, and many at once, beside a bare transaction.

    python bench/gateway/ledger.py [--requests 2000] [--store FOLDER|URL]

p50 and p99 are what a request waits for its reservation; the processor's time holds its settlement
and its outcome too, and says the same on a machine that is busy elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from wye.gateway.money.books import Order, Reservation
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.limits import Limiter
from wye.gateway.records import OutcomeRecord, new_id
from wye.gateway.schema import accounts, prompt_engine
from wye.gateway.store import Store


def bare(engine: sa.Engine, requests: int) -> np.ndarray:
    """Seconds of one UPDATE in a transaction of its own: what the database itself takes."""
    seconds = np.empty(requests)
    statement = sa.update(accounts).values(total_spent=accounts.c.total_spent + 1)
    for number in range(requests):
        began = time.perf_counter()
        with engine.begin() as connection:
            connection.execute(statement)
        seconds[number] = time.perf_counter() - began
    return seconds


async def reserving(
    store: Store, ledger: Ledger, key: str, requests: int, at_once: int
) -> tuple[np.ndarray, float]:
    """Seconds of each reservation, and seconds of processor for all with their settlements."""
    seconds: list[float] = []

    async def client() -> None:
        for _ in range(requests // at_once):
            began = time.perf_counter()
            made = await ledger.reserve(Order(key, None, 1000))
            seconds.append(time.perf_counter() - began)
            assert isinstance(made, Reservation)
            ledger.settle(made, 500)
            store.add(OutcomeRecord(new_id(), time.time(), "one", "ok", 200, cost_usd=5e-7))

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(at_once)))
    await ledger.left(Order(key, None, 0))
    return np.array(seconds), time.process_time() - began


async def limiting(limiter: Limiter, book: KeyBook, requests: int) -> np.ndarray:
    """Seconds of passing a rate limit."""
    key, _ = book.add("rate", Limits(requests_per_minute=10**9, tokens_per_minute=10**9))
    seconds = np.empty(requests)
    for number in range(requests):
        began = time.perf_counter()
        assert await limiter.admit(key, 100) is None
        seconds[number] = time.perf_counter() - began
    return seconds


def tell(what: str, seconds: np.ndarray, note: str = "") -> None:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    print(f"{what:<42} p50 {p50:7.3f} ms   p99 {p99:7.3f} ms   {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--store", help="folder of a SQLite store (temporary else), or a url")
    options = parser.parse_args()
    url = options.store if "://" in (options.store or "") else None
    with tempfile.TemporaryDirectory(dir=None if url else options.store) as folder:
        # As in a gateway, outcomes are written beside the ledger.
        store = Store(url or Path(folder) / "store.db")
        engine = store.engine
        book = KeyBook(engine)
        key = book.add("one", Limits(budget_day=1e6, budget_month=1e6, budget_total=1e6))[0].id
        began = time.process_time()
        alone = bare(engine, options.requests)
        busy = (time.process_time() - began) / options.requests
        tell("bare UPDATE and COMMIT", alone, f"{busy * 1e3:.3f} ms of processor a request")
        for at_once in (1, 16, 64):
            group = GroupCommit(prompt_engine(engine))
            ledger = Ledger(group)
            seconds, total = asyncio.run(reserving(store, ledger, key, options.requests, at_once))
            share = total / len(seconds)
            tell(
                f"reserve + settle, {at_once} at once",
                seconds,
                f"{share * 1e3:.3f} ms of processor a request, "
                f"{share / busy:.1f} x a bare transaction",
            )
            group.close()
            ledger.close(engine)
        group = GroupCommit(prompt_engine(engine))
        rates = asyncio.run(limiting(Limiter(group), book, options.requests))
        tell("rate limit in the store", rates)
        group.close()
        tell("rate limit in memory", asyncio.run(_in_memory(book, options.requests)))
        store.close()


async def _in_memory(book: KeyBook, requests: int) -> np.ndarray:
    key = book.get("rate")
    limiter, seconds = Limiter(None), np.empty(requests)
    for number in range(requests):
        began = time.perf_counter()
        await limiter.admit(key, 100)
        seconds[number] = time.perf_counter() - began
    return seconds


if __name__ == "__main__":
    main()
