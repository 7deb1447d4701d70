"""Room in the gateway: never more than its places, never more than its queue, first come first."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.gateway.errors import ApiError
from wye.gateway.places import Places

STEPS = st.lists(
    st.one_of(
        st.just("come"),
        st.tuples(st.sampled_from(["leave", "give up"]), st.integers(0, 9)),
    ),
    max_size=60,
)


async def settle():
    for _ in range(4):
        await asyncio.sleep(0)


class Visitor:
    """A request that takes a place and holds it until told to leave."""

    def __init__(self, places):
        self.go = asyncio.Event()
        self.inside = False
        self.refused = None
        self.task = asyncio.create_task(self._visit(places))

    async def _visit(self, places):
        try:
            entered = await places.enter()
        except ApiError as error:
            self.refused = error
            return
        self.inside = True
        try:
            await self.go.wait()
        finally:
            self.inside = False
            places.leave(entered)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), STEPS)
def test_it_agrees_with_a_plain_reading_of_its_rules(limit, queue, steps):
    async def run():
        places = Places(limit, queue, queue_seconds=3600)
        inside, waiting, everybody = [], [], []
        for step in steps:
            if step == "come":
                visitor = Visitor(places)
                everybody.append(visitor)
                await settle()
                if len(inside) < limit:
                    inside.append(visitor)
                elif len(waiting) < queue:
                    waiting.append(visitor)
                else:
                    assert visitor.refused.status == 429
                    assert int(visitor.refused.headers["retry-after"]) >= 1
            elif step[0] == "leave" and inside:
                inside.pop(step[1] % len(inside)).go.set()
            elif step[0] == "give up" and waiting:
                waiting.pop(step[1] % len(waiting)).task.cancel()
            await settle()
            while waiting and len(inside) < limit:
                inside.append(waiting.pop(0))
            assert [v for v in everybody if v.inside] == sorted(inside, key=everybody.index)
            assert (places.running, places.waiting) == (len(inside), len(waiting))
        for visitor in everybody:
            visitor.task.cancel()
        await asyncio.gather(*(v.task for v in everybody), return_exceptions=True)
        assert (places.running, places.waiting) == (0, 0)

    asyncio.run(run())


def test_a_place_that_comes_as_the_wait_is_given_up_goes_to_the_next():
    async def run():
        places = Places(1, 2, queue_seconds=3600)
        first, second, third = Visitor(places), Visitor(places), Visitor(places)
        await settle()
        first.go.set()
        await asyncio.sleep(0)
        second.task.cancel()
        await settle()
        assert third.inside
        third.go.set()
        await settle()
        assert places.running == 0

    asyncio.run(run())


def test_a_wait_ends_in_a_refusal():
    async def run():
        places = Places(1, 1, queue_seconds=0.01)
        first, second = Visitor(places), Visitor(places)
        await second.task
        assert second.refused.code == "overloaded"
        assert (places.running, places.waiting) == (1, 0)
        first.task.cancel()

    asyncio.run(run())


def test_draining_sends_the_queue_away_and_lets_nobody_in():
    async def run():
        places = Places(1, 1, queue_seconds=3600)
        first, second = Visitor(places), Visitor(places)
        await settle()
        places.drain()
        await settle()
        assert second.refused.status == 503
        assert first.inside
        with pytest.raises(ApiError, match="takes no new requests"):
            await places.enter()
        first.go.set()
        await settle()
        assert (places.running, places.waiting) == (0, 0)

    asyncio.run(run())
