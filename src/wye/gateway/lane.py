"""One target as the dispatcher asks it: its deployments, their circuits, retries and limits.

    pick a deployment -> ask it -> another deployment at once, else the same after a wait

A deployment that fails hands over to the next without waiting; where all have failed, the retry
policy (`wye.gateway.retries`) says whether the target is asked again. The target rests only while
all its deployments do.

A hedge, off by default, asks a second time when the first call is slow, and cancels the slower one.

Source: J. Dean and L. A. Barroso, "The tail at scale" (CACM 56(2), 2013), hedged requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from wye.gateway.balancing import Balance, Balancer, PeakEwma
from wye.gateway.breaker import Breaker, State
from wye.gateway.retries import RetryBudget, RetryTable, wait_before
from wye.gateway.telemetry.trace import CURRENT, begin_attempt
from wye.gateway.upstream import Fault, Upstream, UpstreamError

T = TypeVar("T")
Note = Callable[["Deployment", UpstreamError, float], None]


class ClosedError(Exception):
    """A target takes no request at this moment; the message says why."""


class Circuit(Protocol):
    """What health pages and eligibility read of a target's breakers."""

    @property
    def state(self) -> State:
        """Where it stands."""

    @property
    def available(self) -> bool:
        """Whether a request may pass."""

    @property
    def retry_after(self) -> float:
        """Seconds until one may pass; 0 when one may."""


class SharedCircuit:
    """The circuits of several deployments as one: as good as the best of them."""

    def __init__(self, breakers: Sequence[Breaker]) -> None:
        self._breakers = breakers

    @property
    def state(self) -> State:
        """Open only while every one is."""
        states = {breaker.state for breaker in self._breakers}
        return next(s for s in (State.CLOSED, State.HALF_OPEN, State.OPEN) if s in states)

    @property
    def available(self) -> bool:
        """Whether a request may pass anywhere."""
        return any(breaker.available for breaker in self._breakers)

    @property
    def retry_after(self) -> float:
        """Seconds until one may pass somewhere."""
        return min(breaker.retry_after for breaker in self._breakers)


@dataclass(eq=False)
class Deployment:
    """One server of a target.

    Attributes:
        in_flight: requests that it works on, streams to their end.
        latency: seconds to the first piece of a stream, or to a whole answer.
    """

    name: str
    upstream: Upstream
    breaker: Breaker
    weight: float = 1.0
    in_flight: int = 0
    latency: PeakEwma = field(default_factory=PeakEwma)

    def tell(self, error: UpstreamError) -> None:
        """What an error says of its health: one that refuses a request is alive."""
        if error.counts:
            self.breaker.failed(error.retry_after)
        else:
            self.breaker.succeeded()


class Call:
    """A request's place at a deployment, until it is released."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._held = True
        deployment.in_flight += 1

    def release(self) -> None:
        """The request has ended, well or not; later calls do nothing."""
        if self._held:
            self._held = False
            self.deployment.in_flight -= 1

    def give_up(self) -> None:
        """The request has ended before anything was asked; nothing happens after `release`."""
        if self._held:
            self.deployment.breaker.abandoned()
            self.release()


async def _end(
    lost: Mapping[asyncio.Task[T], Call], let_go: Callable[[T], Awaitable[None]]
) -> None:
    """Let go of calls that were cancelled, and of answers that came all the same."""
    await asyncio.gather(*lost, return_exceptions=True)
    for task, call in lost.items():
        if task.cancelled():
            call.give_up()
        elif task.exception() is None:
            call.release()
            await let_go(task.result())


def _slower(deployment: Deployment) -> UpstreamError:
    return UpstreamError(
        f"{deployment.name} was cancelled, since another call for the request answered first",
        fault=Fault.HEDGED,
    )


class Lane:
    """Everything between the dispatcher and one target.

    Args:
        deployments: at least one.
        balance: among them.
        retries: see `RetryTable`.
        max_in_flight: most requests at once over all deployments; None for no limit.
        hedge_after: seconds without an answer after which a second call is made; None for never.
        generator: of jitter and of balancing.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        balance: Balance,
        retries: RetryTable,
        max_in_flight: int | None,
        hedge_after: float | None = None,
        generator: random.Random,
    ) -> None:
        self.deployments = tuple(deployments)
        breakers = [deployment.breaker for deployment in deployments]
        self.circuit: Circuit = breakers[0] if len(breakers) == 1 else SharedCircuit(breakers)
        self._balancer = Balancer(balance, generator)
        self._retries = retries
        self._budget = RetryBudget(retries.share, retries.reserve)
        self._max_in_flight = max_in_flight
        self._hedge_after = hedge_after
        self._generator = generator
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def closed(self) -> str | None:
        """Why no request may pass at this moment; None when one may."""
        circuit = self.circuit
        if circuit.available:
            return self.busy
        if circuit.retry_after > 0:
            return f"failed lately; left alone for another {circuit.retry_after:.0f} s"
        return "failed lately; one request is trying it"

    @property
    def busy(self) -> str | None:
        """Why it is full; None while it is not."""
        if self._max_in_flight is None:
            return None
        if sum(deployment.in_flight for deployment in self.deployments) < self._max_in_flight:
            return None
        return f"busy: it takes {self._max_in_flight} requests at once (max_in_flight)"

    async def ask(
        self,
        work: Callable[[Upstream], Awaitable[T]],
        note: Note,
        *,
        let_go: Callable[[T], Awaitable[None]] | None = None,
    ) -> tuple[T, Call]:
        """What `work` gets of the first deployment that answers, and the place held there.

        Args:
            work: asks one upstream.
            note: told of every deployment that failed, with its error and when it began.
            let_go: gives back an answer that came too late; without it nothing is hedged.

        Raises:
            UpstreamError: none answered; the last one's error.
            ClosedError: the target rests or is full.
        """
        self._budget.request()
        tried: set[Deployment] = set()
        retry, last = 0, None
        while True:
            call = self._enter(tried)
            if call is None:
                raise last or ClosedError(self.closed or "failed lately")
            try:
                if let_go is None or self._hedge_after is None:
                    return await self._once(call, work, note), call
                return await self._hedged(call, work, note, let_go, self._hedge_after, tried)
            except UpstreamError as error:
                last = error
            if not (last.elsewhere and last.counts):
                raise last
            tried.add(call.deployment)
            if any(d.breaker.available for d in self.deployments if d not in tried):
                continue
            wait = wait_before(last, retry, self._retries, self._generator)
            if wait is None or wait < self.circuit.retry_after or not self._budget.take():
                raise last
            await asyncio.sleep(wait)
            retry += 1
            tried.clear()

    def _enter(self, tried: set[Deployment]) -> Call | None:
        """A place at a deployment that was not tried; None where none may be asked."""
        if self.busy:
            return None
        left = [d for d in self.deployments if d not in tried and d.breaker.available]
        if not left:
            return None
        chosen = left[0] if len(left) == 1 else left[self._balancer.pick(left)]
        chosen.breaker.enter()
        return Call(chosen)

    async def _hedged(
        self,
        call: Call,
        work: Callable[[Upstream], Awaitable[T]],
        note: Note,
        let_go: Callable[[T], Awaitable[None]],
        after: float,
        tried: set[Deployment],
    ) -> tuple[T, Call]:
        """The first answer of one call, or of two where the first is slow."""
        calls = {asyncio.create_task(self._once(call, work, note)): call}
        began = dict.fromkeys(calls, time.monotonic())
        won: asyncio.Task[T] | None = None
        try:
            done, _ = await asyncio.wait(calls, timeout=after)
            # A hedge takes of the budget as a retry does: both multiply the load.
            second = self._enter({call.deployment}) or self._enter(set()) if not done else None
            if second is not None and self._budget.take():
                task = asyncio.create_task(self._once(second, work, note))
                calls[task], began[task] = second, time.monotonic()
                tried.add(second.deployment)
            elif second is not None:
                second.release()
                second.deployment.breaker.abandoned()
            pending: set[asyncio.Task[T]] = set(calls)
            while won is None and pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                won = next((task for task in done if task.exception() is None), None)
            if won is not None:
                return won.result(), calls[won]
            raise next(error for task in calls if (error := task.exception()))
        finally:
            # Nothing is waited for here: who is cancelled while it waits would lose the answer, and
            # with it the place that is held for it.
            lost = {task: one for task, one in calls.items() if task is not won}
            for task, one in lost.items():
                failed = task.done() and not task.cancelled() and task.exception() is not None
                task.cancel()
                if won is not None and not failed:
                    note(one.deployment, _slower(one.deployment), began[task])
            ending = asyncio.create_task(_end(lost, let_go))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _once(self, call: Call, work: Callable[[Upstream], Awaitable[T]], note: Note) -> T:
        deployment, began = call.deployment, time.monotonic()
        trace = CURRENT.get()
        attempt = None if trace is None else begin_attempt(trace, deployment.name)
        try:
            answer = await work(deployment.upstream)
        except UpstreamError as error:
            if attempt is not None:
                attempt.failed(error.fault.value)
            call.release()
            deployment.tell(error)
            note(deployment, error, began)
            raise
        except BaseException:
            if attempt is not None:
                attempt.failed("cancelled")
            call.release()
            deployment.breaker.abandoned()
            raise
        deployment.breaker.succeeded()
        deployment.latency.observe(time.monotonic() - began)
        return answer
