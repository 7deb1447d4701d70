"""One request on its way to an answer, and the pieces of that answer."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from wye.gateway.lane import Call
from wye.gateway.money.admission import Grant
from wye.gateway.openai_api import ChatRequest
from wye.gateway.patience import Patience
from wye.gateway.records import OutcomeRecord, Status
from wye.gateway.router_service import Routed
from wye.gateway.surfaces import Reading, surface_of
from wye.gateway.upstream import Fault, UpstreamError, close
from wye.gateway.witness import Glance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wye.gateway.answer_cache.answers import Answer
    from wye.gateway.dispatch import Dispatcher
    from wye.gateway.learning.assessor import Assessment
    from wye.gateway.telemetry.trace import Trace
    from wye.gateway.watch.guarding import Verdict

T = TypeVar("T")


@dataclass(eq=False)
class Exchange:
    """One request on its way: its decision, who is asked, and what is known of the answer.

    `finish` writes the outcome, once, however the exchange ends.
    """

    chat: ChatRequest
    routed: Routed
    started: float
    dispatcher: Dispatcher
    grant: Grant = field(default_factory=Grant)
    target: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    first_byte: float | None = None
    call: Call | None = None
    answered: bool = False
    reserved: bool = False
    hedge_cost: float = 0.0
    finished: bool = False
    cut_reason: str | None = None
    glance: Glance | None = None
    trace: Trace | None = None
    verdict: Verdict | None = None
    cached: Answer | None = None
    outcome: OutcomeRecord | None = None
    assessment: Assessment | None = None
    vector: NDArray[np.float32] | None = None
    _patience: Patience = field(default_factory=Patience)

    @property
    def decision_id(self) -> str:
        """The id under which the decision can be looked up."""
        return self.routed.record.id

    @property
    def tiers(self) -> tuple[Any, str | None]:
        """The service tier that the request asks for, and the one that the answer tells."""
        return self.chat.body.get("service_tier"), self.reading.tier

    def take(self, answer: Mapping[str, Any]) -> None:
        """Read usage, length and finish of an answer or a piece of one."""
        if self.first_byte is None:
            self.first_byte = time.monotonic()
        if self.glance is not None:
            self.glance.take(answer)
        if self.assessment is not None:
            self.assessment.transcript.take(answer)
        surface_of(self.chat.body).take(answer, self.reading)

    async def unless_cut(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, which `cut` ends.

        Raises:
            UpstreamError: it was cut, now or before.
        """
        if self.cut_reason is None:
            try:
                with self._patience.until(math.inf):
                    return await work()
            except TimeoutError:
                if self.cut_reason is None:
                    raise
        raise UpstreamError(str(self.cut_reason), fault=Fault.STOPPED)

    def cut(self, reason: str) -> None:
        """End it from outside, with an error that the client sees."""
        self.cut_reason = reason
        self._patience.expire()

    def finish(self, status: Status, *, http_status: int = 200, error: str | None = None) -> None:
        """Write the outcome; later calls do nothing."""
        if not self.finished:
            self.finished = True
            if self.call is not None:
                self.call.release()
            self.dispatcher.record(self, status, http_status, error)


class AnswerStream:
    """The pieces of one answer, from the first one on; closing it ends the upstream's work."""

    def __init__(
        self, exchange: Exchange, first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]
    ) -> None:
        self.exchange = exchange
        self._first = first
        self._rest = rest
        exchange.take(first)

    async def pieces(self) -> AsyncGenerator[dict[str, Any]]:
        """Every piece, the first included.

        Raises:
            UpstreamError: the upstream broke off.
        """
        try:
            yield self._first
            following = partial(anext, self._rest, None)
            while (piece := await self.exchange.unless_cut(following)) is not None:
                self.exchange.take(piece)
                yield piece
        except UpstreamError as error:
            self.exchange.dispatcher.broke_off(self.exchange, error)
            raise
        self.exchange.finish("ok")

    async def aclose(self) -> None:
        """Let go of the upstream; an answer that was not read to its end counts as cancelled."""
        await close(self._rest)
        self.exchange.finish("cancelled", http_status=499, error="the client left")
