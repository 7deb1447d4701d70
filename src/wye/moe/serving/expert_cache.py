"""A cache of experts: which of them stay in fast memory when not all fit.

Replacement by Belady's rule (IBM Systems Journal 1966): evict the expert whose next use lies
farthest away, over the uses that are known. Read-ME (arXiv 2410.19123) knows them because its
router runs before the model. Where nothing is known of the future the rule falls back on the least
recently used: among resident experts without a known next use, the one whose last use is oldest
goes first. `lru` and `fifo` look at the past alone.

Which policies, the fall-back and the prefetch order are ours: the paper states the idea only.

Pure scheduling: an expert is an integer, and could as well be an adapter or a model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from wye.moe.base import MoEError

Policy = Literal["belady", "lru", "fifo"]
POLICIES: tuple[Policy, ...] = ("belady", "lru", "fifo")


@dataclass(frozen=True)
class CacheReport:
    """What a run of batches cost.

    Attributes:
        accesses: expert uses, one for each expert of each batch.
        misses: uses that found their expert absent and waited for its load.
        prefetched: loads that ran beside the batch before.
    """

    accesses: int
    misses: int
    prefetched: int

    @property
    def miss_rate(self) -> float:
        """Misses over accesses; 0 without accesses."""
        return self.misses / self.accesses if self.accesses else 0.0


class ExpertCache:
    """Up to `capacity` resident experts under one replacement policy.

    Args:
        capacity: experts that fit.
        policy: "belady", "lru" or "fifo".

    Raises:
        MoEError: a capacity below 1, an unknown policy.

    Example:
        >>> cache = ExpertCache(2, "belady")
        >>> cache.foresee([0, 1, 2, 0])
        >>> [cache.use(expert) for expert in (0, 1, 2, 0)]
        [False, False, False, True]
    """

    def __init__(self, capacity: int, policy: Policy = "belady") -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise MoEError(f"capacity={capacity!r}, expected an integer of at least 1")
        if policy not in POLICIES:
            raise MoEError(f"policy={policy!r}, expected one of {POLICIES}")
        self.capacity = capacity
        self.policy = policy
        self._clock = 0
        self._foreseen = 0
        self._uses: dict[int, list[int]] = {}
        self._last_use: dict[int, int] = {}
        self._loaded: dict[int, int] = {}

    @property
    def resident(self) -> frozenset[int]:
        """The experts in fast memory."""
        return frozenset(self._loaded)

    def foresee(self, experts: Iterable[int]) -> None:
        """Append uses to what is known of the future, in the order in which they will come."""
        for expert in experts:
            self._uses.setdefault(expert, []).append(self._foreseen)
            self._foreseen += 1

    def use(self, expert: int, *, pinned: Iterable[int] = ()) -> bool:
        """Use an expert, loading it where it is absent; True if it was resident.

        Uses must come in the order that was foreseen, where it was. Pinned experts stay.

        Raises:
            MoEError: every resident expert is pinned.
        """
        hit = expert in self._loaded
        self._step(expert)
        if not hit and not self._load(expert, frozenset(pinned)):
            raise MoEError(
                f"expert {expert} needs a place and all {self.capacity} residents are pinned: pin "
                "fewer, or give the cache a larger capacity"
            )
        return hit

    def prefetch(self, experts: Iterable[int], *, pinned: Iterable[int] = ()) -> int:
        """Load absent experts that will be used next; how many were loaded.

        Neither a pinned expert nor another of `experts` makes room; what finds none waits for its
        use.
        """
        wanted = list(dict.fromkeys(experts))
        kept = frozenset(pinned) | frozenset(wanted)
        return sum(self._load(e, kept) for e in wanted if e not in self._loaded)

    def _step(self, expert: int) -> None:
        if self._clock < self._foreseen:
            times = self._uses.get(expert, [])
            if bisect_left(times, self._clock) == bisect_left(times, self._clock + 1):
                raise MoEError(
                    f"expert {expert} is used at step {self._clock}, for which another was "
                    "foreseen: use experts in the order handed to foresee"
                )
        else:
            self._foreseen = self._clock + 1
        self._clock += 1
        self._last_use[expert] = self._clock

    def _load(self, expert: int, kept: frozenset[int]) -> bool:
        if len(self._loaded) >= self.capacity:
            candidates = [e for e in self._loaded if e not in kept]
            if not candidates:
                return False
            del self._loaded[max(candidates, key=self._urgency)]
        self._loaded[expert] = self._clock
        return True

    def _urgency(self, expert: int) -> tuple[float, int]:
        """Larger goes sooner."""
        if self.policy == "fifo":
            return -self._loaded[expert], 0
        idle = self._clock - self._last_use.get(expert, self._loaded[expert])
        return (self._next_use(expert) if self.policy == "belady" else 0.0), idle

    def _next_use(self, expert: int) -> float:
        times = self._uses.get(expert, [])
        at = bisect_left(times, self._clock)
        return times[at] if at < len(times) else float("inf")


def simulate_cache(
    batches: Sequence[Iterable[int]],
    capacity: int,
    policy: Policy = "belady",
    *,
    lookahead: int | None = None,
    prefetch: bool = False,
) -> CacheReport:
    """Run batches of experts through a cache, one expert of a batch after the other.

    Args:
        batches: experts of each batch, in the order in which they run.
        capacity: experts that fit.
        policy: of replacement.
        lookahead: batches after the running one whose experts are known; None knows all. Only
            Belady's rule and the prefetch read it.
        prefetch: while a batch runs, load the experts of the next one (where it is known).

    Example:
        >>> simulate_cache([[0], [1], [2], [0]], 2, "lru").misses
        4
        >>> simulate_cache([[0], [1], [2], [0]], 2, "belady").misses
        3
    """
    if lookahead is not None and lookahead < 0:
        raise MoEError(f"lookahead={lookahead}, expected an integer of at least 0 or None")
    runs = [list(dict.fromkeys(batch)) for batch in batches]
    horizon = len(runs) if lookahead is None else lookahead
    cache = ExpertCache(capacity, policy)
    known = accesses = misses = fetched = 0
    for number, experts in enumerate(runs):
        while known < min(len(runs), number + 1 + horizon):
            cache.foresee(runs[known])
            known += 1
        misses += sum(not cache.use(expert) for expert in experts)
        accesses += len(experts)
        if prefetch and number + 1 < known:
            fetched += cache.prefetch(runs[number + 1], pinned=experts)
    return CacheReport(accesses, misses, fetched)
