"""Clients leave at every moment of every kind of answer: nothing stays held, all is settled."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import sqlalchemy as sa

from wye.gateway.money.books import Books, Left, Order
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.nano import dollars
from wye.gateway.schema import connect, decisions, outcomes, prompt_engine, reservations

BEHAVIOURS = (
    "ok", "slow-stream", "no-usage", "no-done", "hang", "hang-midway", "hang-in-body", "reset",
    "stumble-500", "stumble-reset", "500", "400",
)  # fmt: skip
MOMENTS = ("in the head", "in the body", "at once", "early", "late", "first byte", "never")
WAITS = {"at once": 0.0, "early": 0.02, "late": 0.2}


def leave(address, secret: str, moment: str, stream: bool, hard: bool) -> None:
    """Ask in bytes, and close the connection at a moment; `hard` resets it."""
    asked = {"model": "wye/capped", "max_tokens": 6, "stream": stream}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": "6 x 7?"}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret}"
        f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(address, timeout=20) as client:
        if hard:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if moment == "in the head":
            client.sendall(head[:60])
        elif moment == "in the body":
            client.sendall(head + body[:20])
        else:
            client.sendall(head + body)
        if moment in WAITS:
            time.sleep(WAITS[moment])
        elif moment == "first byte":
            client.recv(1)
        elif moment == "never":
            read = b""
            while b"\r\n\r\n" not in read or not _whole(read):
                more = client.recv(65536)
                if not more:
                    break
                read += more


def _whole(read: bytes) -> bool:
    head, _, body = read.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def _reservations(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(reservations)).scalar()


@pytest.mark.parametrize("budget", [1.0, None], ids=["with a budget", "hedged"])
def test_whenever_clients_leave_everything_is_settled_once(serve, world, eventually, budget):
    times = {"connect": 1, "first_byte": 0.5, "between": 0.5, "total": 2}
    hedge = {} if budget is not None else {"hedge_after": 0.05}
    served = serve(
        server={"keys": True, "max_in_flight": 40, "queue": 1000},
        breaker={"failures": 10_000},
        retries={"base": 0.01, "share": 1.0},
        targets=[
            world.target(
                kind, model=f"{kind}@left-{budget}", quality=0.9, timeouts=times, context=1000,
                **hedge,
            )
            for kind in BEHAVIOURS
        ]
        + [world.target("last", model="ok@last", quality=0.5, context=1000)],
        policies={"capped": {"kind": "budget", "total": 100.0}},
    )  # fmt: skip
    book = KeyBook(served.gateway.store.engine)
    limits = {"budget_total": budget, "tokens_per_minute": 1_000_000}
    keys = {kind: book.add(kind, Limits(targets=(kind, "last"), **limits)) for kind in BEHAVIOURS}
    address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
    plan = list(product(BEHAVIOURS, MOMENTS, (False, True), (False, True)))
    with ThreadPoolExecutor(48) as clients:
        for done in [
            clients.submit(leave, address, keys[kind][1], moment, stream, hard)
            for kind, moment, stream, hard in plan
        ]:
            done.result()
    gateway = served.gateway
    policy = gateway.service.policies["capped"]
    eventually(lambda: gateway.places.running == 0, 20)
    assert policy.reserved_ == 0
    eventually(lambda: [one.name for one in gateway.deployments if one.in_flight] == [])
    assert "wye_requests_in_flight 0.0" in served.http.get("/metrics").text
    eventually(lambda: _reservations(gateway.store.engine) == 0 == gateway.group.waiting)
    assert gateway.store.flush()
    with gateway.store.engine.connect() as connection:
        made = connection.execute(
            sa.select(decisions.c.key_id, outcomes.c.cost_usd, outcomes.c.tokens_estimated)
            .outerjoin(outcomes, outcomes.c.decision_id == decisions.c.id)
            .add_columns(outcomes.c.status)
        ).all()
        balances = {key.id: Books("t").balance(connection, key.id) for key, _ in keys.values()}
    assert len(made) > len(plan) // 4
    assert all(row.status is not None for row in made)
    assert policy.spent_ == pytest.approx(sum(row.cost_usd or 0.0 for row in made))
    for key_id, balance in balances.items():
        mine = [row for row in made if row.key_id == key_id]
        spent = dollars(balance.total_spent)
        assert balance.total_reserved == 0
        told = sum(row.cost_usd or 0.0 for row in mine if not row.tokens_estimated)
        guessed = [row.cost_usd for row in mine if row.tokens_estimated]
        if budget is None:
            assert spent == pytest.approx(told + sum(guessed), abs=1e-8)
        else:
            # Where usage never came, what was set aside is booked.
            assert told + sum(guessed) <= spent + 1e-8
            assert guessed or spent == pytest.approx(told, abs=1e-8)


async def test_money_is_given_back_where_nobody_waits_any_more_as_it_is_set_aside(tmp_path):
    engine = connect(tmp_path / "a.db")
    key, _ = KeyBook(engine).add("one", Limits(budget_total=1.0))
    group = GroupCommit(prompt_engine(engine))
    ledger = Ledger(group)
    asking = asyncio.create_task(ledger.reserve(Order(key.id, None, 600)))
    await asyncio.sleep(0)
    # The loop stands still until the ledger's thread has told it the result.
    deadline = time.monotonic() + 10
    while _reservations(engine) == 0:
        assert time.monotonic() < deadline
    time.sleep(0.2)
    asyncio.get_running_loop().call_soon(asking.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asking
    while await ledger.left(Order(key.id, None, 0)) != Left(total=10**9):
        assert time.monotonic() < deadline
    await asyncio.to_thread(group.close)
    ledger.close(engine)
    engine.dispose()
