"""Requests that come together are estimated together, and each gets what it would get alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from wye.gateway.config import Target
from wye.gateway.estimates import Expectations
from wye.gateway.openai_api import parse_chat
from wye.query.base import Estimate, QueryRouter, RouterError


class Counting(QueryRouter):
    """Knows two models by the length of a text, and notes how many texts came at once."""

    name = "counting"
    models_ = ("a", "b")

    def __init__(self) -> None:
        self.calls: list[int] = []

    def fit(self, data):
        return self

    def estimate(self, texts):
        self.calls.append(len(texts))
        if "poison" in texts:
            raise ZeroDivisionError("a defect")
        if "down" in texts:
            raise RouterError("the router is down")
        length = np.array([[len(text)] for text in texts], float)
        figures = np.hstack([length / 100, 1 - length / 100])
        return Estimate(
            models=self.models_,
            quality=figures,
            quality_std=figures / 10,
            cost=figures / 1000,
            latency=figures * 10,
            novelty=length[:, 0] / 100,
        )

    def get_state(self):
        return {}, {}

    def set_state(self, arrays, values):
        pass


TARGETS = [
    Target(name="b", base_url="http://x", price_in_per_mtok=1.0, price_out_per_mtok=2.0),
    Target(name="new", base_url="http://x", price_in_per_mtok=3.0, price_out_per_mtok=4.0),
    Target(name="a", base_url="http://x"),
]


def chat(text: str, before: int = 0):
    turns = [{"role": "user", "content": "x" * before}] * bool(before)
    return parse_chat({"model": "wye", "messages": [*turns, {"role": "user", "content": text}]})


async def together(expectations, chats):
    return await asyncio.gather(*map(expectations.of, chats), return_exceptions=True)


def assert_same(one, other):
    for name in ("quality", "quality_std", "cost", "latency", "novelty"):
        np.testing.assert_allclose(
            getattr(one.estimate, name), getattr(other.estimate, name), rtol=1e-12
        )
    assert one.notes == other.notes
    assert one.described == other.described


def test_many_requests_of_one_moment_take_one_call_and_differ_in_nothing():
    router = Counting()
    expectations = Expectations(router, TARGETS)
    chats = [chat("ask" * n, before=100 * n) for n in range(1, 30)]
    found = asyncio.run(together(expectations, chats))
    assert router.calls == [29]
    for asked, got in zip(chats, found, strict=True):
        assert_same(got, expectations.now([asked])[0])


def test_a_long_queue_goes_in_parts():
    router = Counting()
    asyncio.run(together(Expectations(router, TARGETS), [chat("ask")] * 150))
    assert router.calls == [64, 64, 22]


def test_requests_after_one_another_do_not_wait():
    router = Counting()
    expectations = Expectations(router, TARGETS)

    async def one_by_one():
        return [await expectations.of(chat(text)) for text in ("one", "three")]

    found = asyncio.run(one_by_one())
    assert router.calls == [1, 1]
    assert [float(e.estimate.quality[0, 2]) for e in found] == [0.03, 0.05]


def test_a_request_that_defeats_the_router_fails_alone():
    expectations = Expectations(Counting(), TARGETS)
    good, bad, other = asyncio.run(
        together(expectations, [chat("good"), chat("poison"), chat("other")])
    )
    assert isinstance(bad, ZeroDivisionError)
    assert_same(good, expectations.now([chat("good")])[0])
    assert_same(other, expectations.now([chat("other")])[0])


def test_a_client_that_leaves_takes_nobody_with_it():
    router = Counting()
    expectations = Expectations(router, TARGETS)

    async def leave():
        leaving = asyncio.create_task(expectations.of(chat("leaving")))
        staying = asyncio.create_task(expectations.of(chat("staying")))
        await asyncio.sleep(0)
        leaving.cancel()
        found = await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return found

    assert_same(asyncio.run(leave()), expectations.now([chat("staying")])[0])
    assert router.calls[0] == 1


def test_where_the_router_is_down_priors_speak():
    expectations = Expectations(Counting(), TARGETS)
    [found] = expectations.now([chat("down")])
    priors = Expectations(None, TARGETS).now([chat("down")])[0]
    assert_same(found, priors)


def test_costs_count_the_conversation_and_priors_their_prices():
    expectations = Expectations(Counting(), TARGETS)
    [found] = expectations.now([chat("abcd", before=4000)])
    tokens = chat("abcd", before=4000).input_tokens_estimate
    b, new, a = found.estimate.cost[0]
    assert b == pytest.approx(0.96 / 1000 + (tokens - 1) * 1e-6)
    assert new == pytest.approx(tokens * 3e-6 + 300 * 4e-6)
    assert a == pytest.approx(0.04 / 1000)
