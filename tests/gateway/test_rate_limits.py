"""Requests and tokens per minute: the store and memory agree with each other and with the law."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.limits import Limiter
from wye.gateway.schema import connect


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine(place):
    engine = connect(place)
    yield engine
    engine.dispose()


@pytest.fixture
def group(engine):
    group = GroupCommit(engine)
    yield group
    group.close()


def a_key(engine, name="one", **limits):
    return KeyBook(engine).add(name, Limits(**limits))[0]


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 40), st.integers(0, 60), st.integers(-40, 40)), min_size=1, max_size=60
)


@given(arrivals=ARRIVALS, requests=st.integers(1, 7), tokens=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_over_any_stretch_of_time_no_more_passes_than_the_limit_allows(arrivals, requests, tokens):
    clock = Clock()
    limiter = Limiter(None, clock)
    key = _unsaved_key(requests, tokens)
    passed: list[tuple[float, int]] = []
    for gap, amount, _ in arrivals:
        clock.now += gap
        refused = asyncio.run(limiter.admit(key, amount))
        if refused is None:
            passed.append((clock.now, amount))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            stretch = passed[last][0] - passed[first][0]
            share = 1 + stretch / 60 + 1e-6
            assert last - first + 1 <= requests * share + 1e-6
            assert sum(amount for _, amount in passed[first : last + 1]) <= tokens * share + 1e-6


def _unsaved_key(requests, tokens):
    from wye.gateway.money.keys import Key

    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    return Key("id", "one", "wye_", 0.0, None, limits)


@given(arrivals=ARRIVALS, requests=st.integers(1, 7), tokens=st.integers(1, 100))
@settings(max_examples=15, deadline=None)
def test_the_store_decides_as_memory_does(tmp_path_factory, arrivals, requests, tokens):
    clock = Clock()
    engine = connect(tmp_path_factory.getbasetemp() / "rates.db")
    group = GroupCommit(engine)
    name = f"{requests} {tokens} {hash(str(arrivals))}"
    book = KeyBook(engine)
    known = {key.name: key for key in book.list()}
    key = known.get(name) or a_key(
        engine, name, requests_per_minute=requests, tokens_per_minute=tokens
    )

    async def compare() -> None:
        # Time goes on from one example to the next, since the store remembers.
        clock.now = 1.8e9 + 1e5 * len(known)
        shared, alone = Limiter(group, clock), Limiter(None, clock)
        for gap, amount, correction in arrivals:
            clock.now += gap
            assert await shared.admit(key, amount) == await alone.admit(key, amount)
            shared.correct(key, correction)
            alone.correct(key, correction)

    if name not in known:
        asyncio.run(compare())
    group.close()
    engine.dispose()


async def test_many_at_once_pass_up_to_the_limit(engine, group):
    clock = Clock()
    key = a_key(engine, requests_per_minute=10)
    first, second = Limiter(group, clock), Limiter(GroupCommit(engine), clock)
    answers = await asyncio.gather(
        *(limiter.admit(key, 5) for _ in range(20) for limiter in (first, second))
    )
    assert sum(answer is None for answer in answers) == 10
    waits = [answer for answer in answers if answer is not None]
    assert {(w.kind, w.limit, w.amount, w.seconds) for w in waits} == {("requests", 10, 1, 6.0)}
    clock.now += 6.0
    assert await second.admit(key, 5) is None
    assert await first.admit(key, 5) is not None
    second._group.close()


async def test_a_request_larger_than_the_limit_never_passes(engine, group):
    clock = Clock()
    key = a_key(engine, tokens_per_minute=100)
    limiter = Limiter(group, clock)
    for many in (101, 10**30):
        assert (await limiter.admit(key, many)).seconds == math.inf
    assert await limiter.admit(key, 100) is None


async def test_what_an_answer_really_took_is_paid_back_over_time(engine, group):
    clock = Clock()
    key = a_key(engine, tokens_per_minute=60)
    limiter = Limiter(group, clock)
    assert await limiter.admit(key, 10) is None
    limiter.correct(key, 110)
    assert (await limiter.admit(key, 1)).seconds == pytest.approx(61.0)
    clock.now += 61.0
    assert await limiter.admit(key, 1) is None
    limiter.correct(key, -1)
    assert await limiter.admit(key, 1) is None


async def test_an_absurd_count_overdraws_by_ten_minutes_and_no_more(engine, group):
    clock = Clock()
    key = a_key(engine, tokens_per_minute=1)
    limiter = Limiter(group, clock)
    limiter.correct(key, 10**18)
    assert (await limiter.admit(key, 1)).seconds == pytest.approx(600.0)
    limiter.correct(key, -(10**18))
    assert await limiter.admit(key, 1) is None


@pytest.mark.parametrize("seconds", [1.0, 300.0, 1300.0, 86400.0])
@pytest.mark.parametrize("shared", [True, False])
async def test_a_clock_that_steps_back_locks_nobody_out_for_more_than_twenty_minutes(
    engine, group, seconds, shared
):
    clock = Clock()
    key = a_key(engine, requests_per_minute=1, tokens_per_minute=10)
    limiter = Limiter(group if shared else None, clock)
    assert await limiter.admit(key, 0) is None
    limiter.correct(key, 10**6)
    assert (await limiter.admit(key, 0)).seconds == pytest.approx(540.0)
    clock.now -= seconds
    refused = await limiter.admit(key, 0)
    if refused is not None:
        assert refused.seconds <= 1200.0
        clock.now += refused.seconds
        assert await limiter.admit(key, 0) is None


async def test_keys_do_not_share_limits(engine, group):
    one = a_key(engine, "one", requests_per_minute=1)
    two = a_key(engine, "two", requests_per_minute=1)
    limiter = Limiter(group, Clock())
    assert await limiter.admit(one, 0) is None
    assert await limiter.admit(one, 0) is not None
    assert await limiter.admit(two, 0) is None


async def test_a_key_without_rates_asks_nothing_of_the_store(engine, group):
    limiter = Limiter(group, Clock())
    assert await limiter.admit(a_key(engine, budget_day=1.0), 10**9) is None
    assert group._thread is None
