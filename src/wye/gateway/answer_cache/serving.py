"""Answers of the cache over HTTP: looked up before money is set aside, and replayed as they came.

The header `x-wye-cache` of every answer says `exact`, `semantic` or `miss`, or `off` where nothing
was looked up: the client said so (`cache-control`), or the request cannot have an answer again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from wye.gateway.answer_cache.answers import Answer
from wye.gateway.answer_cache.cache import AnswerCache, Found, Keeping
from wye.gateway.answer_cache.question import Question
from wye.gateway.estimates import Expected
from wye.gateway.exchange import AnswerStream, Exchange
from wye.gateway.money.admission import Grant
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import DecisionRecord, new_id
from wye.gateway.router_service import DIRECT, Routed
from wye.gateway.streaming import ClientGoneError, EventStream, unless_gone
from wye.gateway.surfaces import surface_of
from wye.query.base import Estimate

if TYPE_CHECKING:
    from wye.gateway.gateway import Gateway

CACHE_HEADER = "x-wye-cache"
POLICY = "answer-cache"
_CLIENT_CLOSED = 499
# Asks upstream, and keeps the answer where it is told how; the text is for the header.
Ask = Callable[[Keeping | None, str], Awaitable[Response]]


async def answer_again(
    gateway: Gateway,
    cache: AnswerCache,
    request: Request,
    chat: ChatRequest,
    grant: Grant,
    destination: str,
    ask: Ask,
) -> Response:
    """The answer that the cache has, or the one that `ask` brings, which the cache then keeps.

    Args:
        destination: the policy or target that is asked for.
    """
    owner = grant.key.id if grant.key is not None else None
    question = cache.question(chat, owner, destination, request.headers)
    if question is None:
        return await ask(None, "off")
    while question.looks:
        started = time.monotonic()
        found = cache.find(question, _good_for(gateway, grant))
        if found is not None and not gateway.dispatcher.guards(chat):
            return _replayed(gateway, chat, grant, found, cache.clock(), started)
        flight = cache.flights.get(question.key) if found is None else None
        if flight is None:
            break
        try:
            landed = await unless_gone(request.receive, flight.landed())
        except BaseException as error:
            grant.settle(None, None, estimated=False)
            if isinstance(error, ClientGoneError):
                return Response(status_code=_CLIENT_CLOSED)
            raise
        if landed and cache.find(question, _good_for(gateway, grant)) is None:
            # It failed, or its answer cannot be kept; nobody waits for the next try.
            break
    return await _ask(gateway, cache, chat, grant, question, ask)


async def _ask(
    gateway: Gateway,
    cache: AnswerCache,
    chat: ChatRequest,
    grant: Grant,
    question: Question,
    ask: Ask,
) -> Response:
    """Have it answered, by what another gateway has kept or anew; whoever asks the same waits."""
    keeping, started = Keeping(cache, question), time.monotonic()
    response = None
    try:
        found = None
        if question.looks:
            found = await _fetched(gateway, cache, grant, question)
        if found is not None and not gateway.dispatcher.guards(chat):
            keeping.end(left=False)
            return _replayed(gateway, chat, grant, found, cache.clock(), started)
        response = await ask(keeping, "miss" if question.looks else "off")
    except asyncio.CancelledError:
        keeping.end(left=True)
        raise
    finally:
        if not isinstance(response, EventStream):
            left = response is not None and response.status_code == _CLIENT_CLOSED
            keeping.end(left=left)
    return response


async def _fetched(
    gateway: Gateway, cache: AnswerCache, grant: Grant, question: Question
) -> Found | None:
    try:
        return await cache.fetch(question, _good_for(gateway, grant))
    except BaseException:
        # Nothing was decided yet, so that nobody else will let go of what the key was counted for.
        grant.settle(None, None, estimated=False)
        raise


def _good_for(gateway: Gateway, grant: Grant) -> Callable[[Answer], bool]:
    """Whether an answer's target is still there, and open to the key."""
    known, key = gateway.service.by_name, grant.key
    return lambda answer: answer.target in known and (key is None or key.may_use(answer.target))


def _replayed(
    gateway: Gateway, chat: ChatRequest, grant: Grant, found: Found, now: float, started: float
) -> Response:
    routed = _decided(gateway, chat, grant, found, now, started)
    exchange = gateway.dispatcher.take_up(chat, routed, started, grant)
    exchange.cached = found.answer
    headers = {
        "x-wye-decision": exchange.decision_id,
        "x-wye-target": found.answer.target,
        CACHE_HEADER: found.kind,
        "age": str(_age(found, now)),
    }
    if chat.stream:
        return EventStream(ReplayedStream(exchange, found.answer), headers=headers)
    exchange.first_byte = time.monotonic()
    exchange.finish("ok")
    return Response(found.answer.content, media_type="application/json", headers=headers)


def _decided(
    gateway: Gateway, chat: ChatRequest, grant: Grant, found: Found, now: float, started: float
) -> Routed:
    """The decision that nobody had to make."""
    service, answer = gateway.service, found.answer
    reasons = [f"answered from the {found.kind} cache of {answer.decision_id}"]
    if found.kind == "semantic":
        reasons.append(f"the ask is nearly the same (cosine {found.cosine:.4f})")
    reasons.append(f"the answer is {_age(found, now)} s old")
    record = DecisionRecord(
        id=new_id(),
        time=time.time(),
        requested=chat.model,
        policy_name=POLICY,
        policy=DIRECT,
        router=service.present.router_name,
        policy_version=service.present.digest,
        target=answer.target,
        propensity=1.0,
        candidates=(),
        excluded={},
        reasons=tuple(reasons),
        features={
            "messages": chat.turns,
            "surface": surface_of(chat.body).name,
            "input_tokens_estimate": chat.input_tokens_estimate,
            "needs": sorted(chat.needs),
            "cache": {"kind": found.kind, "of": answer.decision_id, "cosine": found.cosine},
        },
        text=chat.text if gateway.config.prompts_kept else None,
        stream=chat.stream,
        router_cost_usd=0.0,
        router_seconds=time.monotonic() - started,
        key_id=grant.key.id if grant.key is not None else None,
        session=grant.session,
    )
    names = tuple(service.by_name)
    unknown, nothing = np.full((1, len(names)), np.nan), np.zeros((1, len(names)))
    estimate = Estimate(names, nothing, nothing, unknown, unknown, np.ones(1))
    return Routed(record, answer.target, Expected(estimate, {}, 0.0, {}), None)


def _age(found: Found, now: float) -> int:
    return max(0, int(now - found.answer.time))


class KeptStream(AnswerStream):
    """A stream on its way to a client, which the cache keeps where it is whole."""

    def __init__(self, answer: AnswerStream, keeping: Keeping) -> None:
        self.exchange = answer.exchange
        self._answer = answer
        self._keeping = keeping

    async def pieces(self) -> AsyncGenerator[dict[str, Any]]:
        """See `AnswerStream`."""
        async with aclosing(self._answer.pieces()) as pieces:
            async for piece in pieces:
                self._keeping.take(piece)
                yield piece
        self._keeping.streamed(self.exchange)

    async def aclose(self) -> None:
        """See `AnswerStream`."""
        try:
            await self._answer.aclose()
        finally:
            outcome = self.exchange.outcome
            self._keeping.end(left=outcome is not None and outcome.status == "cancelled")


class ReplayedStream(AnswerStream):
    """The pieces of an answer that was given before, usage included."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        self.exchange = exchange
        self._pieces: list[dict[str, Any]] = json.loads(answer.content)

    async def pieces(self) -> AsyncGenerator[dict[str, Any]]:
        """See `AnswerStream`."""
        self.exchange.first_byte = time.monotonic()
        for piece in self._pieces:
            yield piece
        self.exchange.finish("ok")

    async def aclose(self) -> None:
        """See `AnswerStream`."""
        self.exchange.finish("cancelled", http_status=499, error="the client left")
