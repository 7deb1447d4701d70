"""Look-ahead batching: run together what needs the same experts.

Because a decoupled router knows the experts of every queued request before the model runs
(Read-ME, arXiv 2410.19123), the next batch can be the one whose union of experts is smallest. A
greedy rule approaches it: seed with the oldest request, then add the request that brings the fewest
experts the batch lacks; among those the one that shares the most with it; among those the oldest.
The paper states the idea only; the rule and the age bound are ours.

Age bound: no request waits more rounds than the larger of `max_wait` and what arrival order would
have made it wait. It is kept as a schedule keeps deadlines: while the requests due by some round
would fill every place left until then, only they may be taken.

Pure scheduling on plans: sources are requests, targets are experts, adapters or models.

Shape letters: Q requests, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan
from wye.moe.base import MoEError


@dataclass(frozen=True)
class Batch:
    """Requests that run together.

    Attributes:
        requests: their numbers, in the order in which they were chosen.
        experts: union of their experts, sorted.
    """

    requests: tuple[int, ...]
    experts: tuple[int, ...]


class LookaheadBatcher:
    """A queue of requests with known experts, emptied batch by batch.

    Args:
        n_experts: E.
        batch_size: most requests per batch.
        max_wait: rounds that a request may be passed over, see the age bound above.

    Raises:
        MoEError: a size below 1, a negative wait.

    Example:
        >>> queue = LookaheadBatcher(4, batch_size=2, max_wait=8)
        >>> for request, experts in enumerate([[0], [1, 2], [0], [2]]):
        ...     queue.add(request, experts)
        >>> queue.next_batch().requests, queue.next_batch().requests
        ((0, 2), (1, 3))
    """

    def __init__(self, n_experts: int, *, batch_size: int, max_wait: int) -> None:
        for name, value, least in (
            ("n_experts", n_experts, 1),
            ("batch_size", batch_size, 1),
            ("max_wait", max_wait, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise MoEError(f"{name}={value!r}, expected an integer of at least {least}")
        self.n_experts = n_experts
        self.batch_size = batch_size
        self.max_wait = max_wait
        self._round = 0
        self._names: list[int] = []
        self._needs: list[NDArray[np.bool_]] = []
        self._due: list[int] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, request: int, experts: Iterable[int]) -> None:
        """Queue a request behind those that wait.

        Args:
            request: its number, unlike those that wait.
            experts: integers in [0, E) that it will use, in any order; none is legal.

        Raises:
            MoEError: an expert out of range, a number that already waits.
        """
        if request in self._names:
            raise MoEError(f"request {request} already waits: number requests uniquely")
        needs = np.zeros(self.n_experts, dtype=np.bool_)
        for expert in experts:
            if not 0 <= expert < self.n_experts:
                raise MoEError(
                    f"request {request} names expert {expert}, expected 0 to {self.n_experts - 1}"
                )
            needs[expert] = True
        in_order = len(self._names) // self.batch_size
        self._due.append(self._round + max(self.max_wait, in_order))
        self._names.append(request)
        self._needs.append(needs)

    def next_batch(self) -> Batch:
        """Take the next batch out of the queue; one round passes.

        Raises:
            MoEError: nothing waits.
        """
        if not self._names:
            raise MoEError("the queue is empty: add requests before asking for a batch")
        needs_QE, due_Q = np.stack(self._needs), np.asarray(self._due)
        size = min(self.batch_size, len(self._names))
        taken = np.zeros(len(self._names), dtype=np.bool_)
        union = np.zeros(self.n_experts, dtype=np.bool_)
        order: list[int] = []
        for place in range(size):
            free = ~taken & (due_Q <= self._latest(due_Q[~taken], self.batch_size - place))
            number = int(np.argmax(free)) if place == 0 else _closest(needs_QE, union, free)
            taken[number] = True
            union |= needs_QE[number]
            order.append(number)
        batch = Batch(
            tuple(self._names[number] for number in order),
            tuple(int(e) for e in np.flatnonzero(union)),
        )
        left = np.flatnonzero(~taken)
        self._names = [self._names[i] for i in left]
        self._needs = [self._needs[i] for i in left]
        self._due = [self._due[i] for i in left]
        self._round += 1
        return batch

    def _latest(self, due: NDArray[np.int64], places: int) -> float:
        """First round until which those due would fill every place left; infinite if none."""
        rounds, counts = np.unique(due, return_counts=True)
        room = places + self.batch_size * (rounds - self._round)
        full = np.flatnonzero(np.cumsum(counts) >= room)
        return float(rounds[full[0]]) if full.size else float("inf")


def lookahead_batches(plan: Plan, *, batch_size: int, max_wait: int) -> list[Batch]:
    """Batches of the requests of `plan`, which wait in the order of their numbers.

    Args:
        plan: from Q requests to E experts; a pair that occurs twice counts once.
        batch_size: most requests per batch.
        max_wait: rounds that a request may be passed over.
    """
    queue = LookaheadBatcher(plan.n_targets, batch_size=batch_size, max_wait=max_wait)
    for request, experts in enumerate(_experts_of(plan)):
        queue.add(request, experts)
    return [queue.next_batch() for _ in range(-(-plan.n_sources // batch_size))]


def arrival_batches(plan: Plan, *, batch_size: int) -> list[Batch]:
    """The same requests batched in the order of their numbers: the baseline."""
    experts = _experts_of(plan)
    batches = []
    for start in range(0, plan.n_sources, batch_size):
        requests = range(start, min(start + batch_size, plan.n_sources))
        union = sorted({e for request in requests for e in experts[request]})
        batches.append(Batch(tuple(requests), tuple(union)))
    return batches


def _experts_of(plan: Plan) -> list[list[int]]:
    host = plan.host()
    order, offsets = host.by_source()
    return [sorted(set(host.target[order[a:b]].tolist())) for a, b in pairwise(offsets.tolist())]


def _closest(needs_QE: NDArray[np.bool_], union: NDArray[np.bool_], free: NDArray[np.bool_]) -> int:
    shared = (needs_QE & union).sum(axis=1)
    extra = needs_QE.sum(axis=1) - shared
    # The oldest stands first, and the sort is stable.
    ranked = np.lexsort((-shared, extra, ~free))
    return int(ranked[0])
