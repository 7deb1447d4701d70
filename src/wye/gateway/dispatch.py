"""From a decision to an answer: ask the target, fall back while nothing was sent, record.

A target that fails before its first byte is left out and the policy chooses again. After the first
byte there is no way back: the client has part of an answer, so the stream ends in an error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from wye.gateway.conversation.switching import Conversations
from wye.gateway.deciding import Decider
from wye.gateway.eligibility import unfit
from wye.gateway.errors import ApiError
from wye.gateway.exchange import AnswerStream, Exchange
from wye.gateway.lane import ClosedError, Deployment, Lane
from wye.gateway.metrics import Metrics
from wye.gateway.money.admission import Grant
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import OutcomeRecord, Status
from wye.gateway.router_service import DIRECT, Routed, RouterService
from wye.gateway.store import Store
from wye.gateway.upstream import Fault, Upstream, UpstreamError, close
from wye.gateway.watch.polite import Polite
from wye.gateway.witness import Glance, Witness

if TYPE_CHECKING:
    from wye.gateway.watch.guarding import RequestGuard, Verdict

T = TypeVar("T")
_Opened = tuple[dict[str, Any], AsyncIterator[dict[str, Any]]]
_NEVER = {Fault.CONTEXT, Fault.UNSUPPORTED}


class Dispatcher:
    """Carries decided requests to their targets.

    Args:
        service: decides.
        lanes: by target.
        store, metrics: where outcomes go.
        witnesses: told of decisions and outcomes too.
        guard: judges requests before a policy does; None where none does.
        conversations: puts the loss of a prompt cache into expected costs; None where none is lost.
    """

    def __init__(
        self,
        service: RouterService,
        lanes: Mapping[str, Lane],
        store: Store,
        metrics: Metrics,
        witnesses: Sequence[Witness] = (),
        conversations: Conversations | None = None,
        guard: RequestGuard | None = None,
    ) -> None:
        self._service = service
        self._lanes = lanes
        self._store = store
        self._metrics = metrics
        self._witnesses = tuple(witnesses)
        self._conversations = conversations
        self.decider = Decider(service, lanes, conversations, guard)
        self._live: set[Exchange] = set()
        self._cut_reason: str | None = None

    async def begin(
        self,
        chat: ChatRequest,
        *,
        policy: str | None,
        target: str | None,
        grant: Grant | None = None,
        guarded: bool = True,
    ) -> Exchange:
        """Decide within a grant and remember the decision.

        Exactly one of `policy` and `target` is given.

        Raises:
            ApiError: the money for it cannot be set aside.
        """
        started = time.monotonic()
        grant = grant or Grant()
        verdict = self.decider.verdict(chat) if guarded else None
        routed = await self.decider.decide(chat, policy, target, grant, verdict)
        if verdict is not None:
            self._metrics.guarded.labels(verdict.kind, verdict.action).inc()
        return self.take_up(chat, routed, started, grant, verdict)

    def guards(self, chat: ChatRequest) -> bool:
        """Whether the guard decides what becomes of a request."""
        verdict = self.decider.verdict(chat)
        return verdict is not None and verdict.decides

    def take_up(
        self,
        chat: ChatRequest,
        routed: Routed,
        started: float,
        grant: Grant,
        verdict: Verdict | None = None,
    ) -> Exchange:
        """Remember a decision and begin its exchange."""
        self._service.remember(chat, routed, self._store)
        self._metrics.decision.observe(routed.record.router_seconds)
        self._metrics.in_flight.inc()
        exchange = Exchange(
            chat,
            routed,
            started,
            self,
            grant,
            target=routed.target,
            reserved=routed.policy is not None,
        )
        exchange.cut_reason = self._cut_reason
        exchange.verdict = verdict
        self._live.add(exchange)
        if self._witnesses:
            exchange.glance = Glance()
            for witness in self._witnesses:
                witness.decided(exchange)
        return exchange

    async def complete(self, exchange: Exchange) -> dict[str, Any]:
        """The whole answer of the first target that gives one.

        Raises:
            ApiError: none did, or the request itself is wrong.
        """

        async def ask(upstream: Upstream) -> dict[str, Any]:
            return await upstream.complete(exchange.chat.body)

        try:
            answer = await exchange.unless_cut(partial(self._first_answer, exchange, ask, _forget))
        except UpstreamError as error:
            raise self._stopped(exchange, error) from None
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

        async def ask(upstream: Upstream) -> _Opened:
            pieces = upstream.stream(exchange.chat.body)
            try:
                return await anext(pieces), pieces
            except StopAsyncIteration:
                raise UpstreamError(
                    f"{exchange.target} ended its stream without an answer", fault=Fault.CUT
                ) from None
            except BaseException:
                await close(pieces)
                raise

        try:
            opened = await exchange.unless_cut(
                partial(self._first_answer, exchange, ask, _close_opened)
            )
            return AnswerStream(exchange, *opened)
        except UpstreamError as error:
            raise self._stopped(exchange, error) from None
        except asyncio.CancelledError:
            exchange.finish("cancelled", http_status=499, error="the client left")
            raise

    def cut(self, reason: str) -> None:
        """End every request that is being answered, or will be; their clients see the reason."""
        self._cut_reason = reason
        for exchange in tuple(self._live):
            exchange.cut(reason)

    def broke_off(self, exchange: Exchange, error: UpstreamError) -> None:
        """A stream failed after its first piece."""
        if exchange.call is not None:
            deployment = exchange.call.deployment
            deployment.tell(error)
            self._note(exchange, deployment, error, exchange.started)
        exchange.finish("error", error=str(error))

    def record(
        self, exchange: Exchange, status: Status, http_status: int, error: str | None
    ) -> None:
        """Write the outcome, settle the budget, count."""
        self._live.discard(exchange)
        usage, estimated = self._usage(exchange)
        target, cost, baseline = exchange.target, None, None
        if target is not None and usage is not None:
            cost = self._service.by_name[target].price(usage, *exchange.tiers)
            baseline = self._service.baseline_cost(exchange.routed, target, cost, usage)
            followed = exchange.routed.expected.conversation
            if followed is not None and self._conversations is not None:
                self._conversations.observe(followed, target, usage, estimated=estimated)
        if exchange.cached is not None:
            cost, baseline = 0.0, exchange.cached.baseline_usd
        if exchange.hedge_cost:
            cost = (cost or 0.0) + exchange.hedge_cost
        if exchange.reserved:
            exchange.routed.settle(cost or 0.0)
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
        exchange.outcome = outcome
        self._store.add(outcome)
        key = exchange.grant.key.name if exchange.grant.key is not None else None
        self._metrics.record(exchange.routed.record.policy_name, outcome, key)
        self._metrics.in_flight.dec()
        for witness in self._witnesses:
            witness.ended(exchange, outcome)
        if exchange.assessment is not None:
            exchange.assessment.ended(exchange, outcome)

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

    async def _first_answer(
        self,
        exchange: Exchange,
        ask: Callable[[Upstream], Awaitable[T]],
        let_go: Callable[[T], Awaitable[None]],
    ) -> T:
        if exchange.verdict is not None and exchange.verdict.answer is not None:
            exchange.answered = True
            return await ask(Polite(exchange.chat, exchange.verdict.answer))
        excluded = dict(exchange.routed.record.excluded)
        while exchange.target is not None:
            lane = self._lanes[exchange.target]
            try:
                answer, exchange.call = await lane.ask(
                    ask,
                    partial(self._note, exchange),
                    # What was set aside for the request pays for one call.
                    let_go=None if exchange.grant.bounded else let_go,
                )
            except UpstreamError as error:
                if not error.elsewhere:
                    raise self._refused(exchange, error) from error
                excluded[exchange.target] = str(error)
            except ClosedError as error:
                excluded[exchange.target] = str(error)
            else:
                exchange.answered = True
                return answer
            if exchange.reserved:
                exchange.routed.settle(0.0)
            exchange.reserved = False
            exchange.target = await exchange.grant.again(
                partial(self._service.again, exchange.routed),
                partial(exchange.routed.settle, 0.0),
                excluded,
            )
            exchange.reserved = exchange.target is not None
        raise self._none_left(exchange, excluded)

    def _note(
        self, exchange: Exchange, deployment: Deployment, error: UpstreamError, began: float
    ) -> None:
        """Remember that a deployment of the exchange's target failed, or was not waited for."""
        target = str(exchange.target)
        attempt: dict[str, Any] = {
            "target": target,
            "error": str(error),
            "fault": error.fault.value,
            "seconds": time.monotonic() - began,
        }
        if deployment.name != target:
            attempt["deployment"] = deployment.name
        if error.fault is Fault.HEDGED:
            # Most upstreams bill at least the input of a call that was cancelled.
            read = Usage(exchange.chat.input_tokens_estimate, 0)
            cost = self._service.by_name[target].price(read, *exchange.tiers)
            exchange.hedge_cost += cost or 0.0
            attempt |= {"cost_usd": cost, "cost_estimated": True}
        exchange.attempts.append(attempt)

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

    def _stopped(self, exchange: Exchange, error: UpstreamError) -> ApiError:
        """The gateway stops before anything was answered."""
        exchange.finish("error", http_status=503, error=str(error))
        headers = {"retry-after": "1", "connection": "close"}
        return ApiError(503, str(error), type="server_error", code="draining", headers=headers)

    def _none_left(self, exchange: Exchange, excluded: Mapping[str, str]) -> ApiError:
        """No target gave an answer: say of each why."""
        reasons = [f"{name}: {reason}" for name, reason in excluded.items()]
        if len(excluded) < len(self._lanes) and exchange.routed.record.policy_name != DIRECT:
            reasons.insert(0, exchange.routed.record.reasons[0])
        why = "; ".join(reasons)
        out_of_money = exchange.grant.refusal(
            tuple(excluded), tuple(unfit(exchange.chat, self._service.targets))
        )
        if exchange.verdict is not None and exchange.verdict.action == "refuse":
            error = exchange.verdict.refusal()
        elif out_of_money is not None:
            error = out_of_money
        elif self._full(exchange, excluded):
            error = ApiError(
                429,
                f"every target that can take this request is full: {why}",
                type="rate_limit_error",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        elif self._hopeless(exchange, excluded):
            error = ApiError(400, f"no target can take this request: {why}", code="no_target_fits")
        else:
            waits = [self._lanes[name].circuit.retry_after for name in excluded]
            error = ApiError(
                503,
                f"no target is left to answer: {why}",
                type="server_error",
                code="no_target_left",
                headers={"retry-after": str(max(1, math.ceil(min(waits, default=1.0))))},
            )
        exchange.finish("error", http_status=error.status, error=error.message)
        return error

    def _full(self, exchange: Exchange, excluded: Mapping[str, str]) -> bool:
        """Whether nothing but requests in flight stands in the way."""
        never = {*unfit(exchange.chat, self._service.targets), *exchange.grant.denied}
        able = set(excluded) - never
        return bool(able) and all(self._lanes[name].busy == excluded[name] for name in able)

    def _hopeless(self, exchange: Exchange, excluded: Mapping[str, str]) -> bool:
        """Whether the request can be served by no target at any time, so that it is at fault."""
        never = {*unfit(exchange.chat, self._service.targets), *exchange.grant.denied}
        never |= {a["target"] for a in exchange.attempts if a["fault"] in _NEVER}
        return bool(excluded) and never.issuperset(excluded)


async def _forget(_answer: dict[str, Any]) -> None:
    """A whole answer that came too late holds nothing."""


async def _close_opened(opened: _Opened) -> None:
    await close(opened[1])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
