"""Experts in two tiers of memory: which requests find theirs in the fast one, and what loads cost.

Experts live in a large slow tier and are copied to a fast one of limited capacity when a request
needs them. Source: the serving part of Composition of Experts, arXiv 2412.01868 (three-tier memory,
hot experts kept by least recent use), and Belady (1966) for the best that any rule could do. Loads
cost time in proportion to size.

Shape letters: N requests, M experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

RULES = ("lru", "belady")


@dataclass(frozen=True)
class Residency:
    """What serving a sequence of requests took.

    Attributes:
        hit: `[N]` whether the expert was in the fast tier already.
        loads: `[M]` how often each expert was copied in.
        evictions: how often one was dropped.
        loaded: total size that was copied.
        seconds: that the copies took.
    """

    hit: NDArray[np.bool_]
    loads: NDArray[np.intp]
    evictions: int
    loaded: float
    seconds: float

    @property
    def hit_rate(self) -> float:
        """Share of requests that did not wait for a copy; 1 of no requests."""
        return float(self.hit.mean()) if self.hit.size else 1.0


def simulate_residency(
    requests: Sequence[int] | NDArray[np.integer],
    sizes: FloatArray,
    capacity: float,
    *,
    bandwidth: float = 1.0,
    rule: str = "lru",
) -> Residency:
    """Serve `requests` one after the other from a fast tier that starts empty.

    Args:
        requests: `[N]` expert of each request.
        sizes: `[M]` size of each expert, above 0.
        capacity: of the fast tier, in the unit of `sizes`.
        bandwidth: size copied in one second.
        rule: whom to drop: `lru`, the one whose last use is oldest, or `belady`, the one whose next
            use is farthest away, which needs the future and bounds every rule for equal sizes.

    Raises:
        RouterError: an unknown rule or expert, a size or bandwidth not above 0, or a requested
            expert larger than the fast tier.

    Example:
        >>> simulate_residency([0, 1, 0, 2, 0], np.ones(3), 2.0).hit.tolist()
        [False, False, True, False, True]
    """
    wanted = np.asarray(requests, np.intp)
    _check(wanted, sizes, capacity, bandwidth, rule)
    next_use = _next_uses(wanted)
    priority: dict[int, int] = {}
    hit = np.zeros(wanted.size, np.bool_)
    loads = np.zeros(sizes.size, np.intp)
    free, evictions = float(capacity), 0
    for i, expert in enumerate(wanted.tolist()):
        hit[i] = expert in priority
        if not hit[i]:
            while free < sizes[expert] - 1e-12:
                dropped = min(priority, key=lambda e: priority[e])
                del priority[dropped]
                free += float(sizes[dropped])
                evictions += 1
            free -= float(sizes[expert])
            loads[expert] += 1
        # The smallest goes first: the oldest use, or the farthest next one.
        priority[expert] = i if rule == "lru" else -int(next_use[i])
    loaded = float(loads @ sizes)
    return Residency(hit, loads, evictions, loaded, loaded / bandwidth)


def batch_by_expert(requests: Sequence[int] | NDArray[np.integer], window: int) -> NDArray[np.intp]:
    """The order `[N]` that serves each window of requests expert by expert.

    Within a window an expert is needed in one run, so it is copied once at most; experts come in
    the order of their first request, and the requests of one expert keep theirs.

    Args:
        requests: `[N]` expert of each request.
        window: requests that may be reordered among each other, 1 or more.

    Example:
        >>> batch_by_expert([4, 7, 4, 7], 4).tolist()
        [0, 2, 1, 3]
    """
    if window < 1:
        raise RouterError(f"window is {window}, expected 1 or more")
    wanted = np.asarray(requests, np.intp)
    order = np.arange(wanted.size)
    for start in range(0, wanted.size, window):
        part = wanted[start : start + window]
        _, first, inverse = np.unique(part, return_index=True, return_inverse=True)
        order[start : start + window] = start + np.argsort(first[inverse], kind="stable")
    return order


def _next_uses(wanted: NDArray[np.intp]) -> NDArray[np.intp]:
    upcoming = np.empty(wanted.size, np.intp)
    seen: dict[int, int] = {}
    for i in range(wanted.size - 1, -1, -1):
        upcoming[i] = seen.get(int(wanted[i]), wanted.size)
        seen[int(wanted[i])] = i
    return upcoming


def _check(
    wanted: NDArray[np.intp], sizes: FloatArray, capacity: float, bandwidth: float, rule: str
) -> None:
    if rule not in RULES:
        raise RouterError(f"rule is {rule!r}, expected one of {list(RULES)}")
    if not (sizes > 0).all() or not bandwidth > 0:
        raise RouterError(f"sizes {sizes.tolist()} and bandwidth {bandwidth} must be above 0")
    if wanted.size and (wanted.min() < 0 or wanted.max() >= sizes.size):
        raise RouterError(
            f"requests name experts {wanted.min()} to {wanted.max()}, expected 0 to "
            f"{sizes.size - 1}"
        )
    if wanted.size and sizes[wanted].max() > capacity:
        raise RouterError(
            f"an expert of size {sizes[wanted].max()} does not fit a capacity of {capacity}"
        )
