"""Versions used while gateways serve: none dropped, all converge, a broken one changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from wye.cli import app
from wye.gateway.learning.tables import policy_versions
from wye.gateway.schema import connect

STREAMS = 50


class Site:
    """A folder with a configuration and a store, and the commands that work on them."""

    def __init__(self, folder: Path, world) -> None:
        self.folder, self.world = folder, world
        self.config = folder / "wye.toml"
        self.write("quality")

    def write(self, kind: str, more: str = "") -> None:
        """The policy `quality` prefers `slow`, `utility` with a weight prefers `cheap`."""
        self.config.write_text(
            f"""
[store]
path = "{self.folder / "gateway.db"}"
batch_seconds = 0.05

[learning]
poll_seconds = 0.1

[policies.main]
kind = "{kind}"
{more}

[[targets]]
name = "slow"
model = "slow-stream"
base_url = "{self.world.base_url}"
quality = 0.9
price_in_per_mtok = 10.0
price_out_per_mtok = 10.0

[[targets]]
name = "cheap"
model = "ok"
base_url = "{self.world.base_url}"
quality = 0.5
price_in_per_mtok = 0.0
price_out_per_mtok = 0.0
"""
        )

    def wye(self, *arguments: str, config: bool = True) -> str:
        given = [*arguments, *(["--config", str(self.config)] if config else [])]
        ran = CliRunner().invoke(app, given)
        assert ran.exit_code == 0, ran.output + repr(ran.exception)
        return ran.stdout.strip()

    def thrifty(self) -> str:
        """Add a version that prefers `cheap`; the file says `quality` again afterwards."""
        self.write("utility", "cost_weight = 1000.0")
        version = self.wye("policy", "add", "--note", "thrifty")
        self.write("quality")
        return version


@pytest.fixture
def site(tmp_path, world) -> Site:
    return Site(tmp_path, world)


def body(**fields):
    return {"model": "wye", "messages": [{"role": "user", "content": "6 x 7?"}], **fields}


def target(url: str) -> str:
    answer = httpx.post(f"{url}/v1/chat/completions", json=body(), verify=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-wye-target"]


def policy(url: str) -> dict:
    return httpx.get(f"{url}/healthz", verify=False, timeout=30).json()["policy"]


async def read(client: httpx.AsyncClient, url: str, opened: asyncio.Event) -> list[str]:
    """Every event of one streamed answer."""
    request = client.stream("POST", f"{url}/v1/chat/completions", json=body(stream=True))
    async with request as answer:
        assert answer.status_code == 200
        opened.set()
        return [line async for line in answer.aiter_lines() if line]


def test_a_version_is_taken_while_streams_run_and_none_of_them_is_dropped(
    site, running, eventually
):
    version = site.thrifty()
    with running(site.config) as (_, url):
        before = policy(url)

        async def stream() -> list[list[str]]:
            async with httpx.AsyncClient(verify=False, timeout=60) as client:
                opened = [asyncio.Event() for _ in range(STREAMS)]
                reading = [asyncio.create_task(read(client, url, o)) for o in opened]
                await asyncio.gather(*(o.wait() for o in opened))
                await asyncio.to_thread(site.wye, "policy", "use", version)
                await asyncio.to_thread(eventually, lambda: policy(url)["version"] == version)
                assert not all(task.done() for task in reading), "no stream was left to drop"
                return await asyncio.gather(*reading)

        # 50 streams at once need more connections than a client keeps by itself.
        answers = asyncio.run(stream())
        assert len(answers) == STREAMS
        for lines in answers:
            assert lines[-1] == "data: [DONE]"
            pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
            said = "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces)
            assert said == "The answer is forty-two."
        assert target(url) == "cheap"
        after = policy(url)
        assert after["source"] == "store"
        decided = httpx.get(f"{url}/v1/decisions?limit=1000", verify=False, timeout=30).json()
        versions = [
            httpx.get(f"{url}/v1/decisions/{d['id']}", verify=False, timeout=30).json()
            for d in decided["data"]
        ]
        found = [(d["target"], d["policy_version"]) for d in versions]
        assert found.count(("slow", before["digest"])) == STREAMS
        assert found.count(("cheap", after["digest"])) == len(found) - STREAMS == 1


def test_gateways_of_one_store_converge_and_go_back_by_one_command(site, running, eventually):
    version = site.thrifty()
    with ExitStack() as stack:
        urls = [stack.enter_context(running(site.config))[1] for _ in range(2)]
        own = policy(urls[0])["version"]
        assert {target(url) for url in urls} == {"slow"}

        site.wye("policy", "use", version[:6])
        eventually(lambda: all(policy(url)["version"] == version for url in urls))
        assert {target(url) for url in urls} == {"cheap"}

        told = json.loads(site.wye("policy", "list", "--json"))
        assert {g["version"] for g in told["gateways"]} == {version}
        assert {v["id"]: v["state"] for v in told["versions"]} == {version: "present", own: "kept"}

        site.wye("rollback")
        eventually(lambda: all(policy(url)["version"] == own for url in urls))
        assert {target(url) for url in urls} == {"slow"}


def test_a_gateway_that_starts_takes_what_the_store_wants(site, running):
    site.wye("policy", "use", site.thrifty())
    with running(site.config) as (_, url):
        assert target(url) == "cheap"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_says_so(site, running, eventually):
    version = site.thrifty()
    engine = connect(site.folder / "gateway.db")
    with engine.begin() as connection:
        connection.execute(sa.update(policy_versions).values(artefact=b"no archive"))
    engine.dispose()
    with running(site.config) as (process, url):
        own = policy(url)["version"]
        site.wye("policy", "use", version)
        eventually(lambda: policy(url)["error"] is not None)
        assert policy(url)["version"] == own
        assert f"{own} goes on deciding" in policy(url)["error"]
        assert target(url) == "slow"

        def told() -> list[dict]:
            return json.loads(site.wye("policy", "list", "--json"))["gateways"]

        eventually(lambda: any(gateway["error"] for gateway in told()))
        [report] = told()
        assert report["version"] == own
        assert "cannot be unpacked" in report["error"]
        site.wye("policy", "rollback")
        eventually(lambda: policy(url)["error"] is None)
        process.terminate()
        assert "cannot be unpacked" in process.stderr.read()


def test_sighup_reads_the_configuration_again(site, running, eventually):
    with running(site.config) as (process, url):
        assert target(url) == "slow"
        site.write("utility", "cost_weight = 1000.0")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: target(url) == "cheap")
        version = policy(url)["version"]

        site.write("no-such-policy")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: policy(url)["error"] is not None)
        assert "no-such-policy" in policy(url)["error"]
        assert policy(url)["version"] == version
        assert target(url) == "cheap"
