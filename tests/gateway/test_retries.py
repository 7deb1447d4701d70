"""When a target is asked again, after how long, and how often at most."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.retries import RetryBudget, RetryTable, wait_before
from wye.gateway.retry_after import retry_after
from wye.gateway.upstream import Fault, UpstreamError

NOON = datetime(2025, 3, 4, 12, 0, 0, tzinfo=UTC)


def error(fault, status=None, retry_after=None):
    return UpstreamError("no", fault=fault, status=status, retry_after=retry_after)


@given(
    st.floats(0, 1),
    st.floats(0, 20),
    st.lists(st.sampled_from(["request", "retry"]), max_size=200),
)
def test_retries_stay_a_share_of_requests(share, reserve, steps):
    budget = RetryBudget(share, reserve)
    requests = retries = 0
    for step in steps:
        if step == "request":
            requests += 1
            budget.request()
        else:
            retries += budget.take()
        assert retries <= reserve + share * requests + 1e-9


def test_a_quiet_time_saves_up_no_more_than_the_reserve():
    budget = RetryBudget(share=0.5, reserve=3.0)
    for _ in range(100):
        budget.request()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


@given(
    st.sampled_from(Fault),
    st.sampled_from([None, 401, 429, 500, 503]),
    st.one_of(st.none(), st.floats(0, 20)),
    st.integers(0, 6),
    st.integers(0, 4),
)
def test_a_wait_lies_where_the_rules_say(fault, status, asked, retry, attempts):
    table = RetryTable(attempts=attempts, base=0.5, cap=3.0)
    failed = error(fault, status, asked)
    wait = wait_before(failed, retry, table, random.Random(retry))
    mends = {
        Fault.CONNECT: True,
        Fault.RESET: True,
        Fault.STATUS: status in (500, 503),
        Fault.RATE_LIMIT: asked is not None,
    }.get(fault, False)
    if not mends or retry >= attempts or (asked or 0) > 3.0:
        assert wait is None
    else:
        assert (asked or 0) <= wait <= (asked or 0) + min(3.0, 0.5 * 2**retry)


def test_the_jitter_is_full():
    table, generator = RetryTable(base=1.0, cap=8.0, attempts=9), random.Random(7)
    waits = [wait_before(error(Fault.RESET), 2, table, generator) for _ in range(2000)]
    counts = [sum(low <= wait < low + 1 for wait in waits) for low in range(4)]
    assert sum(counts) == 2000
    # Each quarter of the range gets its share within five standard deviations.
    assert all(abs(count - 500) < 97 for count in counts)


@given(st.integers(-100_000, 100_000), st.booleans())
def test_a_date_counts_from_the_upstreams_own_clock(seconds, told):
    headers = {"retry-after": format_datetime(NOON + timedelta(seconds=seconds), usegmt=True)}
    if told:
        headers["date"] = format_datetime(NOON, usegmt=True)
    now = 0.0 if told else NOON.timestamp()
    assert retry_after(headers, now=now) == max(0, seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "Tuesday, 04-Mar-25 12:00:09 GMT"}, 9.0),
        ({"Retry-After": "Tue Mar  4 12:00:09 2025"}, 9.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Tue, 99 Mar 2025 12:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_every_form_is_read_and_nonsense_is_nothing(headers, seconds):
    encoded = httpx.Headers({name: value.encode() for name, value in headers.items()})
    assert retry_after(encoded, now=NOON.timestamp()) == seconds


@given(st.text(max_size=40))
def test_no_text_at_all_breaks_the_reading(text):
    found = retry_after({"retry-after": text})
    assert found is None or found >= 0
