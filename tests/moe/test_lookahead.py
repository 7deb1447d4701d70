"""Look-ahead batching: every request once, within its bound, with few experts per batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.core import Plan
from wye.moe.base import MoEError
from wye.moe.serving.lookahead import LookaheadBatcher, arrival_batches, lookahead_batches

pytestmark = pytest.mark.torch

requests = st.lists(st.sets(st.integers(0, 5), max_size=4), max_size=30)


def plan_of(needs: list[set[int]]) -> Plan:
    pairs = [(q, e) for q, experts in enumerate(needs) for e in sorted(experts)]
    source, target = (np.array([p[i] for p in pairs], dtype=np.int64) for i in (0, 1))
    return Plan(source, target, np.ones(len(pairs)), len(needs), 6)


@given(needs=requests, size=st.integers(1, 5), wait=st.integers(0, 6))
@settings(deadline=None)
def test_every_request_runs_once_with_its_experts(
    needs: list[set[int]], size: int, wait: int
) -> None:
    batches = lookahead_batches(plan_of(needs), batch_size=size, max_wait=wait)
    assert sorted(q for b in batches for q in b.requests) == list(range(len(needs)))
    for batch in batches:
        assert set(batch.experts) == set().union(*(needs[q] for q in batch.requests))
    assert all(len(b.requests) == size for b in batches[:-1])


@given(
    arrivals=st.lists(st.lists(st.sets(st.integers(0, 5), max_size=3), max_size=6), max_size=8),
    size=st.integers(1, 4),
    wait=st.integers(0, 5),
)
@settings(deadline=None)
def test_no_request_waits_beyond_its_bound(
    arrivals: list[list[set[int]]], size: int, wait: int
) -> None:
    queue = LookaheadBatcher(6, batch_size=size, max_wait=wait)
    bound, number, now = {}, 0, 0
    pending = list(arrivals)
    while pending or len(queue):
        for experts in pending.pop(0) if pending else []:
            bound[number] = now + max(wait, len(queue) // size)
            queue.add(number, experts)
            number += 1
        if len(queue):
            for request in queue.next_batch().requests:
                assert now <= bound.pop(request)
            now += 1
    assert not bound


@given(needs=requests, size=st.integers(1, 5))
@settings(deadline=None)
def test_without_patience_batches_come_in_order_of_arrival(
    needs: list[set[int]], size: int
) -> None:
    ahead = lookahead_batches(plan_of(needs), batch_size=size, max_wait=0)
    plain = arrival_batches(plan_of(needs), batch_size=size)
    assert [sorted(b.requests) for b in ahead] == [list(b.requests) for b in plain]
    assert [b.experts for b in ahead] == [b.experts for b in plain]


def test_requests_of_the_same_experts_run_together() -> None:
    needs = [{q % 3} for q in range(12)]
    ahead = lookahead_batches(plan_of(needs), batch_size=4, max_wait=12)
    assert [b.experts for b in ahead] == [(0,), (1,), (2,)]
    assert all(len(b.experts) == 3 for b in arrival_batches(plan_of(needs), batch_size=4))


def test_a_batch_grows_by_the_fewest_experts_then_by_the_largest_overlap() -> None:
    queue = LookaheadBatcher(6, batch_size=3, max_wait=9)
    for number, needs in enumerate([{0, 1}, {0, 1, 2}, {0}, {0, 1}]):
        queue.add(number, needs)
    assert queue.next_batch().requests == (0, 3, 2)


def test_repeated_pairs_count_once_and_an_empty_queue_has_no_batches() -> None:
    twice = Plan(np.array([0, 0]), np.array([1, 1]), np.ones(2), 1, 2)
    assert lookahead_batches(twice, batch_size=4, max_wait=0)[0].experts == (1,)
    assert lookahead_batches(plan_of([]), batch_size=2, max_wait=1) == []


def test_bad_input_is_refused() -> None:
    with pytest.raises(MoEError, match="batch_size=0"):
        LookaheadBatcher(2, batch_size=0, max_wait=1)
    with pytest.raises(MoEError, match="max_wait=-1"):
        LookaheadBatcher(2, batch_size=1, max_wait=-1)
    queue = LookaheadBatcher(2, batch_size=1, max_wait=1)
    with pytest.raises(MoEError, match="queue is empty"):
        queue.next_batch()
    with pytest.raises(MoEError, match="expert 2, expected 0 to 1"):
        queue.add(0, [2])
    queue.add(0, [1])
    with pytest.raises(MoEError, match="already waits"):
        queue.add(0, [0])
