"""From a decision to an answer: ask the target, fall back while nothing was sent, record.

A target that fails before its first byte is left out and the policy chooses again. After the first
byte there is no way back: the client has part of an answer, so the stream ends in an error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from wye.gateway.breaker import Breaker
from wye.gateway.eligibility import resting, unfit, unspoken
from wye.gateway.errors import ApiError
from wye.gateway.metrics import Metrics
from wye.gateway.money.admission import Grant
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import OutcomeRecord, Status
from wye.gateway.router_service import DIRECT, Routed, RouterService
from wye.gateway.store import Store
from wye.gateway.surfaces import Reading, surface_of
from wye.gateway.upstream import Fault, Upstream, UpstreamError, close

T = TypeVar("T")
_NEVER = {Fault.CONTEXT, Fault.UNSUPPORTED}


@dataclass
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
    answered: bool = False
    reserved: bool = False
    finished: bool = False

    @property
    def decision_id(self) -> str:
        """The id under which the decision can be looked up."""
        return self.routed.record.id

    def take(self, answer: Mapping[str, Any]) -> None:
        """Read usage, length and finish of an answer or a piece of one."""
        if self.first_byte is None:
            self.first_byte = time.monotonic()
        surface_of(self.chat.body).take(answer, self.reading)

    def finish(self, status: Status, *, http_status: int = 200, error: str | None = None) -> None:
        """Write the outcome; later calls do nothing."""
        if not self.finished:
            self.finished = True
            self.dispatcher.record(self, status, http_status, error)


class Dispatcher:
    """Carries decided requests to their targets.

    Args:
        service: decides.
        upstreams, breakers: by target.
        store, metrics: where outcomes go.
    """

    def __init__(
        self,
        service: RouterService,
        upstreams: Mapping[str, Upstream],
        breakers: Mapping[str, Breaker],
        store: Store,
        metrics: Metrics,
    ) -> None:
        self._service = service
        self._upstreams = upstreams
        self._breakers = breakers
        self._store = store
        self._metrics = metrics

    async def begin(
        self,
        chat: ChatRequest,
        *,
        policy: str | None,
        target: str | None,
        grant: Grant | None = None,
    ) -> Exchange:
        """Decide within a grant and remember the decision.

        Exactly one of `policy` and `target` is given.

        Raises:
            ApiError: the money for it cannot be set aside.
        """
        started = time.monotonic()
        grant = grant or Grant()
        expected = await self._service.expect(chat)

        def decide(left_out: Mapping[str, str]) -> Routed:
            if target is not None:
                mute = unspoken(chat, self._service.by_name[target])
                return self._service.direct(chat, expected, target, left_out.get(target) or mute)
            excluded = {
                **left_out,
                **resting(self._breakers),
                **unfit(chat, self._service.targets),
            }
            return self._service.decide(chat, expected, str(policy), excluded)

        routed = await grant.choose(decide)
        key_id = grant.key.id if grant.key is not None else None
        record = replace(routed.record, key_id=key_id, session=grant.session)
        routed = replace(routed, record=record)
        self._store.add(routed.record)
        self._metrics.decision.observe(routed.record.router_seconds)
        self._metrics.in_flight.inc()
        return Exchange(
            chat,
            routed,
            started,
            self,
            grant,
            target=routed.target,
            reserved=routed.policy is not None,
        )

    async def complete(self, exchange: Exchange) -> dict[str, Any]:
        """The whole answer of the first target that gives one.

        Raises:
            ApiError: none did, or the request itself is wrong.
        """

        async def ask(upstream: Upstream) -> dict[str, Any]:
            return await upstream.complete(exchange.chat.body)

        try:
            answer = await self._first_answer(exchange, ask)
        except asyncio.CancelledError:
            exchange.finish("cancelled", http_status=499, error="the client left")
            raise
        exchange.take(answer)
        exchange.finish("ok")
        return answer

    async def stream(self, exchange: Exchange) -> AnswerStream:
        """The answer in pieces, of the first target that sends one; that one is here already.

        The caller must close the stream, read to its end or not.

        Raises:
            ApiError: no target sent anything, or the request itself is wrong.
        """

        async def ask(upstream: Upstream) -> AnswerStream:
            pieces = upstream.stream(exchange.chat.body)
            try:
                return AnswerStream(exchange, await anext(pieces), pieces)
            except StopAsyncIteration:
                raise UpstreamError(
                    f"{exchange.target} ended its stream without an answer", fault=Fault.CUT
                ) from None
            except BaseException:
                await close(pieces)
                raise

        try:
            return await self._first_answer(exchange, ask)
        except asyncio.CancelledError:
            exchange.finish("cancelled", http_status=499, error="the client left")
            raise

    def broke_off(self, exchange: Exchange, error: UpstreamError) -> None:
        """A stream failed after its first piece."""
        _tell(self._breakers[str(exchange.target)], error)
        exchange.attempts.append(_attempt(exchange, error, exchange.started))
        exchange.finish("error", error=str(error))

    def record(
        self, exchange: Exchange, status: Status, http_status: int, error: str | None
    ) -> None:
        """Write the outcome, settle the budget, count."""
        usage, estimated = self._usage(exchange)
        target, cost, baseline = exchange.target, None, None
        if target is not None and usage is not None:
            cost = self._service.by_name[target].price(usage)
            baseline = self._service.baseline_cost(exchange.routed, target, cost, usage)
        if exchange.reserved:
            self._service.settle(exchange.routed, cost or 0.0)
        exchange.grant.settle(usage, cost, estimated=estimated)
        ended = time.monotonic()
        outcome = OutcomeRecord(
            decision_id=exchange.decision_id,
            time=time.time(),
            target=target,
            status=status,
            http_status=http_status,
            error=error,
            input_tokens=usage.input if usage else None,
            output_tokens=usage.output if usage else None,
            tokens_estimated=estimated,
            cost_usd=cost,
            baseline_usd=baseline,
            latency_s=ended - exchange.started,
            first_byte_s=exchange.first_byte - exchange.started if exchange.first_byte else None,
            finish_reason=exchange.reading.finish_reason,
            attempts=tuple(exchange.attempts),
            cached_input_tokens=usage.cached_input if usage else None,
            cache_write_tokens=usage.cache_write if usage else None,
            reasoning_tokens=usage.reasoning if usage else None,
        )
        self._store.add(outcome)
        self._metrics.record(exchange.routed.record.policy_name, outcome)
        self._metrics.in_flight.dec()

    def _usage(self, exchange: Exchange) -> tuple[Usage | None, bool]:
        """What was used, and whether that is guessed; None where nothing was answered.

        What came of an answer that broke off or was left is billed by most upstreams, so it counts.
        """
        if exchange.reading.usage is not None:
            return exchange.reading.usage, False
        if not exchange.answered:
            return None, False
        written = math.ceil(exchange.reading.characters / 4)
        return Usage(exchange.chat.input_tokens_estimate, written), True

    async def _first_answer(self, exchange: Exchange, ask: Callable[[Upstream], Awaitable[T]]) -> T:
        excluded = dict(exchange.routed.record.excluded)
        while exchange.target is not None:
            breaker = self._breakers[exchange.target]
            if not breaker.enter():
                excluded |= resting({exchange.target: breaker})
            else:
                began = time.monotonic()
                try:
                    answer = await ask(self._upstreams[exchange.target])
                except UpstreamError as error:
                    _tell(breaker, error)
                    exchange.attempts.append(_attempt(exchange, error, began))
                    if not error.elsewhere:
                        raise self._refused(exchange, error) from error
                    excluded[exchange.target] = str(error)
                except BaseException:
                    breaker.abandoned()
                    raise
                else:
                    breaker.succeeded()
                    exchange.answered = True
                    return answer
            if exchange.reserved:
                self._service.settle(exchange.routed, 0.0)
            exchange.reserved = False
            exchange.target = await exchange.grant.again(
                partial(self._service.again, exchange.routed),
                partial(self._service.settle, exchange.routed, 0.0),
                excluded,
            )
            exchange.reserved = exchange.target is not None
        raise self._none_left(exchange, excluded)

    def _refused(self, exchange: Exchange, error: UpstreamError) -> ApiError:
        """The target says that the request is wrong: pass its words on."""
        status = error.status or 400
        body = error.body or {}
        exchange.finish("error", http_status=status, error=str(error))
        return ApiError(
            status,
            str(body.get("message") or error),
            type=str(body.get("type") or "invalid_request_error"),
            code=_text(body.get("code")),
            param=_text(body.get("param")),
        )

    def _none_left(self, exchange: Exchange, excluded: Mapping[str, str]) -> ApiError:
        """No target gave an answer: say of each why."""
        reasons = [f"{name}: {reason}" for name, reason in excluded.items()]
        if len(excluded) < len(self._upstreams) and exchange.routed.record.policy_name != DIRECT:
            reasons.insert(0, exchange.routed.record.reasons[0])
        why = "; ".join(reasons)
        out_of_money = exchange.grant.refusal(
            tuple(excluded), tuple(unfit(exchange.chat, self._service.targets))
        )
        if out_of_money is not None:
            error = out_of_money
        elif self._hopeless(exchange, excluded):
            error = ApiError(400, f"no target can take this request: {why}", code="no_target_fits")
        else:
            waits = [self._breakers[name].retry_after for name in excluded]
            error = ApiError(
                503,
                f"no target is left to answer: {why}",
                type="server_error",
                code="no_target_left",
                headers={"retry-after": str(max(1, math.ceil(min(waits, default=1.0))))},
            )
        exchange.finish("error", http_status=error.status, error=error.message)
        return error

    def _hopeless(self, exchange: Exchange, excluded: Mapping[str, str]) -> bool:
        """Whether the request can be served by no target at any time, so that it is at fault."""
        never = {*unfit(exchange.chat, self._service.targets), *exchange.grant.denied}
        never |= {a["target"] for a in exchange.attempts if a["fault"] in _NEVER}
        return bool(excluded) and never.issuperset(excluded)


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
            async for piece in self._rest:
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


def _tell(breaker: Breaker, error: UpstreamError) -> None:
    """What an error says of the target's health: one that refuses a request is alive."""
    if error.counts:
        breaker.failed(error.retry_after)
    else:
        breaker.succeeded()


def _attempt(exchange: Exchange, error: UpstreamError, began: float) -> dict[str, Any]:
    return {
        "target": exchange.target,
        "error": str(error),
        "fault": error.fault.value,
        "seconds": time.monotonic() - began,
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
