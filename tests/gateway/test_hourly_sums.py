"""Remembered hours add up to what lies in the store, from any moment on, whatever comes later."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.hourly_sums import HOUR, HourlySums
from wye.gateway.records import OutcomeRecord, new_id
from wye.gateway.store import Store
from wye.gateway.traffic_sums import TrafficSums

NOW = 1_790_000_123.5


@pytest.fixture
def store(place):
    store = Store(place, batch_seconds=0.01)
    yield store
    store.close()


def outcome(moment: float, k: int) -> OutcomeRecord:
    return OutcomeRecord(
        new_id(),
        moment,
        ("small", "large", None)[k % 3],
        ("ok", "ok", "error")[k % 3],
        200,
        cost_usd=(0.25, None, 1.0)[k % 3],
        baseline_usd=(0.5, 2.0, 4.0, None)[k % 4],
        latency_s=1.0,
    )


def told(rows):
    """What hours come to, by target and status."""
    found: dict = {}
    for row in rows:
        sums = found.setdefault((row.target, row.status), [0, 0, 0.0, 0.0, 0, 0.0, 0.0])
        for place, value in enumerate(
            (
                *(row.requests, row.priced, row.cost_usd, row.baseline_usd, row.both),
                *(row.both_baseline_usd, row.both_cost_usd),
            )
        ):
            sums[place] += value
    return found


def naive(records, since):
    found: dict = {}
    for r in records:
        if r.time < since:
            continue
        sums = found.setdefault((r.target, r.status), [0, 0, 0.0, 0.0, 0, 0.0, 0.0])
        both = r.cost_usd is not None and r.baseline_usd is not None
        for place, value in enumerate(
            (
                *(1, r.cost_usd is not None, r.cost_usd or 0.0, r.baseline_usd or 0.0, both),
                *((r.baseline_usd, r.cost_usd) if both else (0.0, 0.0)),
            )
        ):
            sums[place] += value
    return found


def test_hours_add_up_from_any_moment_on_while_time_goes_on(store):
    clock = [NOW]
    hours = HourlySums(store.engine, clock=lambda: clock[0])
    records = []
    for k in range(300):
        records.append(outcome(NOW - 9 * HOUR + k * 100.0, k))
        store.add(records[-1])
        if k % 60 == 59:
            assert store.flush()
            clock[0] = NOW - 9 * HOUR + k * 100.0
            for since in (None, clock[0] - 3.3 * HOUR, clock[0] - 30, clock[0] - 5 * HOUR):
                assert told(hours.since(since)) == naive(records, since or 0.0)


@given(starts=st.lists(st.floats(NOW - 3 * HOUR, NOW), min_size=1, max_size=5))
def test_every_window_is_exact(filled, starts):
    hours, records = filled
    for since in starts:
        assert told(hours.since(since)) == naive(records, since)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("hours") / "gateway.db", batch_seconds=0.01)
    records = [outcome(NOW - 3 * HOUR + k * 50.0, k) for k in range(216)]
    for record in records:
        store.add(record)
    assert store.flush()
    yield HourlySums(store.engine, clock=lambda: NOW), records
    store.close()


@pytest.mark.parametrize("bucket", [60, 900, HOUR, 6 * HOUR])
def test_series_of_any_bucket_hold_the_same_traffic(store, bucket):
    began = time.time() - 5 * HOUR
    records = [outcome(began + k * 200.0, k) for k in range(60)]
    for record in records:
        store.add(record)
    assert store.flush()
    rows = TrafficSums(store.engine).series(bucket)
    assert sum(row["requests"] for row in rows) == 60
    assert sum(row["errors"] for row in rows) == 20
    assert sum(row["spend_usd"] for row in rows) == pytest.approx(20 * 0.25 + 20 * 1.0)
    for row in rows:
        inside = [r for r in records if row["time"] <= r.time < row["time"] + bucket]
        assert row["requests"] == len(inside)
        assert row["time"] % bucket == 0
