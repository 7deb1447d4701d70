"""The cache of experts: Belady's rule against every other schedule, its fall-back, the prefetch."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.moe.base import MoEError
from wye.moe.serving.expert_cache import ExpertCache, simulate_cache

pytestmark = pytest.mark.torch

traces = st.lists(st.integers(0, 5), max_size=40)


def misses(trace: list[int], capacity: int, policy: str, **options: int | None) -> int:
    return simulate_cache([[e] for e in trace], capacity, policy, **options).misses  # type: ignore[arg-type]


def least_misses(trace: list[int], capacity: int) -> int:
    """Exhaustive search over every eviction."""

    @cache
    def best(at: int, resident: frozenset[int]) -> int:
        if at == len(trace):
            return 0
        if trace[at] in resident:
            return best(at + 1, resident)
        if len(resident) < capacity:
            return 1 + best(at + 1, resident | {trace[at]})
        return 1 + min(best(at + 1, resident - {out} | {trace[at]}) for out in resident)

    return best(0, frozenset())


@given(trace=traces, capacity=st.integers(1, 6))
@settings(deadline=None)
def test_belady_never_misses_more_than_lru_or_fifo(trace: list[int], capacity: int) -> None:
    belady = misses(trace, capacity, "belady")
    assert belady <= misses(trace, capacity, "lru")
    assert belady <= misses(trace, capacity, "fifo")


@given(trace=st.lists(st.integers(0, 4), max_size=12), capacity=st.integers(1, 3))
@settings(deadline=None)
def test_belady_is_optimal(trace: list[int], capacity: int) -> None:
    assert misses(trace, capacity, "belady") == least_misses(trace, capacity)


@given(trace=traces, capacity=st.integers(1, 6))
@settings(deadline=None)
def test_belady_that_knows_no_future_is_lru(trace: list[int], capacity: int) -> None:
    cache_of = {policy: ExpertCache(capacity, policy) for policy in ("belady", "lru")}
    for expert in trace:
        assert cache_of["belady"].use(expert) == cache_of["lru"].use(expert)
        assert cache_of["belady"].resident == cache_of["lru"].resident


def test_fifo_evicts_the_first_loaded_and_lru_the_least_recently_used() -> None:
    trace = [0, 1, 0, 2, 0]
    assert misses(trace, 2, "lru") == 3
    assert misses(trace, 2, "fifo") == 4


def test_a_foreseen_use_is_kept_over_a_recent_one_without() -> None:
    cache_of = ExpertCache(2)
    cache_of.foresee([0, 1, 2, 0])
    for expert in (0, 1, 2):
        assert not cache_of.use(expert)
    assert cache_of.resident == {0, 2}


@given(batches=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=12))
@settings(deadline=None)
def test_prefetch_leaves_fewer_waits_and_keeps_what_runs(batches: list[list[int]]) -> None:
    plain = simulate_cache(batches, 8)
    ahead = simulate_cache(batches, 8, prefetch=True)
    assert ahead.misses + ahead.prefetched == plain.misses
    first = next((set(batch) for batch in batches[:1]), set())
    assert ahead.misses == len(first)
    assert simulate_cache(batches, 8, prefetch=True, lookahead=0) == simulate_cache(batches, 8)


def test_prefetch_makes_no_room_among_pinned_experts() -> None:
    cache_of = ExpertCache(2)
    cache_of.use(0)
    cache_of.use(1)
    assert cache_of.prefetch([2, 3], pinned=[0, 1]) == 0
    assert cache_of.prefetch([2, 3], pinned=[0]) == 1
    assert cache_of.resident == {0, 2}


def test_no_accesses_have_no_miss_rate() -> None:
    report = simulate_cache([[], []], 1)
    assert (report.accesses, report.misses, report.miss_rate) == (0, 0, 0.0)


@pytest.mark.parametrize("capacity", [0, -1, True, 1.5])
def test_a_capacity_that_holds_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(MoEError, match="capacity="):
        ExpertCache(capacity)


def test_unknown_policies_and_broken_promises_are_refused() -> None:
    with pytest.raises(MoEError, match="policy='random'"):
        ExpertCache(1, "random")  # type: ignore[arg-type]
    foreseeing = ExpertCache(2)
    foreseeing.foresee([0, 1])
    with pytest.raises(MoEError, match="order handed to foresee"):
        foreseeing.use(1)
    full = ExpertCache(1)
    full.use(0)
    with pytest.raises(MoEError, match="all 1 residents are pinned"):
        full.use(1, pinned=[0])
    with pytest.raises(MoEError, match="lookahead=-1"):
        simulate_cache([[0]], 1, lookahead=-1)
