"""Two replicas of the gateway on Ray Serve share one budget exactly, through one store."""

from __future__ import annotations

import asyncio
import sys

import httpx
import pytest
import sqlalchemy as sa

from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.money.books import Books
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.schema import connect, leases
from wye.ray.serving import RayError, app, application

pytestmark = pytest.mark.ray
# What the outside world reports, at the prices below, in nanodollars.
COST = 11 * 1000 + 6 * 2000
BODY = {"model": "wye", "max_tokens": 6, "messages": [{"role": "user", "content": "6 x 7?"}]}
CONFIG = """
[server]
keys = true
drain_seconds = 2

[store]
{store}

[policies.quality]
kind = "quality"

[[targets]]
name = "ok@serve"
base_url = "http://127.0.0.1:{port}/v1"
price_in_per_mtok = 1.0
price_out_per_mtok = 2.0
"""


def test_replicas_spend_one_budget_together_and_leave_nothing_behind(
    cluster, postgresql, upstream, free_port
):
    from ray import serve

    url = postgresql.url(postgresql.database())
    engine = connect(url)
    key, secret = KeyBook(engine).add("shared", Limits(budget_total=0.003))
    config = parse_config(CONFIG.format(store=f'url = "{url}"', port=upstream))
    serve.start(http_options={"host": "127.0.0.1", "port": free_port})
    serve.run(application(config, replicas=2, cpus=0.4), name="wye", route_prefix="/")
    address = f"http://127.0.0.1:{free_port}"
    headers = {"authorization": f"Bearer {secret}"}

    async def spend() -> list[int]:
        async with httpx.AsyncClient(
            base_url=address, headers=headers, verify=False, timeout=60
        ) as client:

            async def one() -> list[int]:
                post = client.post
                return [(await post("/v1/chat/completions", json=BODY)).status_code for _ in "1234"]

            found = await asyncio.gather(*(one() for _ in range(64)))
        return [status for statuses in found for status in statuses]

    try:
        statuses = asyncio.run(spend())
        assert set(statuses) == {200, 429}
        assert httpx.post(f"{address}/v1/chat/completions", json=BODY).status_code == 401
        with engine.connect() as connection:
            assert len(connection.execute(sa.select(leases)).all()) == 2
        _, free_secret = KeyBook(engine).add("free", Limits())
        free_headers = {"authorization": f"Bearer {free_secret}"}
        streamed = {**BODY, "stream": True}
        with httpx.stream(
            "POST", f"{address}/v1/chat/completions", json=streamed, headers=free_headers
        ) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
    finally:
        serve.shutdown()
    with engine.connect() as connection:
        balance = Books("test").balance(connection, key.id)
    engine.dispose()
    assert balance.total_reserved == 0
    assert balance.total_spent == statuses.count(200) * COST
    assert 0 < balance.total_spent <= 3_000_000


def test_replicas_without_a_common_store_are_refused(cluster):
    config = parse_config(CONFIG.format(store="batch_seconds = 0.5", port=1))
    with pytest.raises(ConfigError, match="one store"):
        application(config)


@pytest.mark.parametrize(
    ("arguments", "why"), [({"replica": "2"}, "replica"), ({"replicas": "two"}, "numbers")]
)
def test_arguments_of_serve_run_that_cannot_be_used_are_told(arguments, why):
    with pytest.raises(RayError, match=why):
        app(arguments)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"wye\[ray\]"):
        application("wye.toml")
