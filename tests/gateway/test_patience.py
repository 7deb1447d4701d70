"""One timer for many waits: each ends in time, and nothing else ends with it."""

from __future__ import annotations

import asyncio
import math

import pytest

from wye.gateway.patience import Patience

SHORT, LONG = 0.02, 30.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_wait_that_takes_too_long_ends():
    patience = Patience()
    began = now()
    with pytest.raises(TimeoutError), patience.until(began + SHORT):
        await asyncio.sleep(LONG)
    assert began + SHORT <= now() < began + LONG / 2
    assert asyncio.current_task().cancelling() == 0


async def test_waits_that_are_short_go_on_and_take_one_timer(monkeypatch):
    loop, patience, timers = asyncio.get_running_loop(), Patience(), []
    call_at = loop.call_at

    def counted(when, callback, *args, **kwargs):
        if callback == patience._look:
            timers.append(when)
        return call_at(when, callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(200):
        with patience.until(now() + LONG):
            await asyncio.sleep(0)
    assert len(timers) == 1
    patience.close()


async def test_a_timer_of_an_earlier_wait_does_not_end_a_later_one():
    patience = Patience()
    with patience.until(now() + SHORT):
        await asyncio.sleep(0)
    with patience.until(now() + LONG):
        await asyncio.sleep(3 * SHORT)
    with pytest.raises(TimeoutError), patience.until(now() + SHORT):
        await asyncio.sleep(LONG)


async def test_a_shorter_wait_after_a_longer_one_ends_in_its_own_time():
    patience = Patience()
    with patience.until(now() + LONG):
        await asyncio.sleep(0)
    began = now()
    with pytest.raises(TimeoutError), patience.until(began + SHORT):
        await asyncio.sleep(LONG)
    assert now() < began + LONG / 2


async def test_between_waits_nothing_is_ended():
    patience = Patience()
    with patience.until(now() + SHORT):
        await asyncio.sleep(0)
    await asyncio.sleep(3 * SHORT)
    assert asyncio.current_task().cancelling() == 0


async def test_errors_and_results_pass():
    patience = Patience()
    with pytest.raises(KeyError), patience.until(now() + LONG):
        raise KeyError("own")
    patience.close()


async def test_a_cancellation_from_outside_stays_one():
    patience = Patience()

    async def waiting():
        with patience.until(now() + LONG):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    patience.close()


async def test_a_cancellation_beside_the_end_of_a_wait_stays_one():
    patience = Patience()

    async def waiting():
        with patience.until(math.inf):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    patience.expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_can_be_ended_from_outside_while_it_lasts():
    patience = Patience()
    patience.expire()
    task = asyncio.current_task()

    def end():
        patience.expire()
        patience.expire()

    asyncio.get_running_loop().call_soon(end)
    with pytest.raises(TimeoutError), patience.until(math.inf):
        await asyncio.sleep(LONG)
    assert task.cancelling() == 0
    with patience.until(math.inf):
        await asyncio.sleep(0)


async def test_it_serves_several_tasks_after_one_another():
    patience = Patience()

    async def one(seconds):
        with patience.until(now() + seconds):
            await asyncio.sleep(2 * SHORT)
        return seconds

    assert await asyncio.create_task(one(LONG)) == LONG
    with pytest.raises(TimeoutError):
        await asyncio.create_task(one(SHORT))
    assert await asyncio.create_task(one(LONG)) == LONG
    patience.close()
