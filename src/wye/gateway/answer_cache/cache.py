"""Look-ups, what is kept, and who waits for whom: one upstream call for equal questions at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wye.embed import Embedder, get_embedder
from wye.gateway.answer_cache.answers import Answer, Answers
from wye.gateway.answer_cache.likeness import agree
from wye.gateway.answer_cache.question import Question, question_of
from wye.gateway.answer_cache.refusals import refuses
from wye.gateway.answer_cache.settings import AnswerCacheTable
from wye.gateway.answer_cache.shelf import Shelf
from wye.gateway.metrics import Metrics
from wye.gateway.openai_api import ChatRequest
from wye.gateway.store import Store

if TYPE_CHECKING:
    from wye.gateway.config import Config
    from wye.gateway.exchange import Exchange

Kind = Literal["exact", "semantic"]
_SWEEP_EVERY = 256
# Reasons to end for which the same request may well be answered the next time.
_UNKEPT_ENDS = {"content_filter", "refusal", "failed"}


@dataclass(frozen=True)
class Found:
    """An answer that was given before.

    Attributes:
        kind: of the cache that has it.
        cosine: of the two asks; 1 where they are equal.
    """

    answer: Answer
    kind: Kind
    cosine: float


class Flight:
    """A question that is being asked; those who have the same wait for its end."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def landed(self) -> bool:
        """Whether it came to an end; False where whoever asked has left."""
        return await asyncio.shield(self._ended)

    def end(self, *, left: bool) -> None:
        """Let those who wait go on."""
        if not self._ended.done():
            self._ended.set_result(not left)


class AnswerCache:
    """Answers that were given before, for requests that take them.

    Args:
        table: see `AnswerCacheTable`.
        metrics: counts look-ups.
        shelf: answers in the store; None where they are kept in memory alone.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        table: AnswerCacheTable,
        metrics: Metrics,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._metrics = metrics
        self.clock = clock
        self._answers = Answers(table.max_mb * 2**20, table.ttl_seconds)
        self.flights: dict[str, Flight] = {}
        self._shelf = shelf
        self._written = 0
        self._sweeping: asyncio.Future[None] | None = None
        if shelf is not None:
            shelf.sweep(clock())
            for answer in shelf.newest(clock()):
                self._answers.put(answer, clock())
        self._embedder: Embedder | None = None
        if table.semantic:
            self._embedder = get_embedder("static")
            # Its weights load with the first text, which no request should wait for.
            self._embedder.embed(["warm"])

    def question(
        self, chat: ChatRequest, owner: str | None, destination: str, headers: Mapping[str, str]
    ) -> Question | None:
        """See `question_of`."""
        return question_of(chat, self._table, owner=owner, destination=destination, headers=headers)

    def find(self, question: Question, good: Callable[[Answer], bool]) -> Found | None:
        """An answer to the question, or to one like it, that is `good` for whoever asks."""
        now = self.clock()
        answer = self._answers.get(question.key, now)
        if answer is not None and good(answer):
            return self._count("exact", Found(answer, "exact", 1.0))
        self._count("exact", None)
        if question.group is None or self._embedder is None:
            return None
        if question.vector is None:
            question.vector = self._embedder.embed([question.text])[0]
        near = self._answers.like(question.group, question.vector, self._table.threshold, now)
        for answer, cosine in near:
            if agree(question.text, answer.text) and good(answer):
                return self._count("semantic", Found(answer, "semantic", cosine))
        return self._count("semantic", None)

    async def fetch(self, question: Question, good: Callable[[Answer], bool]) -> Found | None:
        """An answer that another gateway of the store has to exactly this question."""
        if self._shelf is None:
            return None
        answer = await asyncio.to_thread(self._shelf.find, question.key, self.clock())
        if answer is None or not good(answer):
            return None
        self._answers.put(answer, self.clock())
        return self._count("exact", Found(answer, "exact", 1.0))

    def keep(self, question: Question, exchange: Exchange, content: bytes) -> None:
        """Keep the whole answer of an exchange that ended well."""
        outcome = exchange.outcome
        if outcome is None or outcome.status != "ok" or outcome.target is None:
            return
        if outcome.finish_reason in _UNKEPT_ENDS or len(content) > self.most or refuses(content):
            return
        baseline = outcome.baseline_usd
        answer = Answer(
            key=question.key,
            decision_id=exchange.decision_id,
            target=outcome.target,
            time=self.clock(),
            content=content,
            baseline_usd=outcome.cost_usd if baseline is None else baseline,
            group=question.group,
            text=question.text,
            vector=question.vector,
        )
        self._answers.put(answer, answer.time)
        if self._shelf is not None:
            self._shelf.add(answer)
            self._written += 1
            if self._written % _SWEEP_EVERY == 0 and self._sweeping is None:
                self._sweep(self._shelf)

    def _sweep(self, shelf: Shelf) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.run_in_executor(None, shelf.sweep, self.clock())
        self._sweeping.add_done_callback(self._swept)

    def _swept(self, _done: object) -> None:
        self._sweeping = None

    @property
    def most(self) -> float:
        """Most bytes of an answer."""
        return self._table.max_answer_kb * 1024

    def _count(self, kind: Kind, found: Found | None) -> Found | None:
        self._metrics.answer_cache.labels(kind, "miss" if found is None else "hit").inc()
        return found


def answers_of(config: Config, metrics: Metrics, store: Store) -> AnswerCache | None:
    """The cache as configured, with what the store has of it; None without the table."""
    table = config.answer_cache
    if table is None:
        return None
    redacts = config.logs is not None and config.logs.redact_store
    if not table.keep_in_store or not config.prompts_kept or redacts:
        return AnswerCache(table, metrics)
    shelf = Shelf(store, table.max_mb * 2**20, table.ttl_seconds)
    return AnswerCache(table, metrics, shelf)


class Keeping:
    """One answer on its way into the cache, and the flight of those who wait for it."""

    def __init__(self, cache: AnswerCache, question: Question) -> None:
        self._cache = cache
        self._question = question
        self._pieces: list[str] = []
        self._size = 0
        self._flight: Flight | None = None
        if question.looks and question.key not in cache.flights:
            self._flight = cache.flights[question.key] = Flight()

    def whole(self, exchange: Exchange, body: bytes) -> None:
        """The answer came in one piece."""
        self._cache.keep(self._question, exchange, body)
        self.end(left=False)

    def take(self, piece: Mapping[str, Any]) -> None:
        """A piece of the answer came."""
        if self._size <= self._cache.most:
            written = json.dumps(piece)
            self._size += len(written)
            self._pieces.append(written)

    def streamed(self, exchange: Exchange) -> None:
        """The last piece came."""
        if self._size <= self._cache.most:
            content = f"[{','.join(self._pieces)}]".encode()
            self._cache.keep(self._question, exchange, content)
        self.end(left=False)

    def end(self, *, left: bool) -> None:
        """Whatever came of it, nobody waits any longer; later calls do nothing."""
        if self._flight is not None:
            self._cache.flights.pop(self._question.key, None)
            self._flight.end(left=left)
            self._flight = None
