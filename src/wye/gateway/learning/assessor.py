"""Judges answers while the gateway serves: by checks that clients state, by a judge that is asked.

Off, it costs nothing; a request that is neither checked nor drawn for the judge leaves no mark.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter

from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.lane import ClosedError, Lane
from wye.gateway.learning.daily_spend import DailySpend, Held
from wye.gateway.learning.judge import JudgeTable, grade, question
from wye.gateway.learning.outcome_checks import Check
from wye.gateway.learning.records import OverheadRecord
from wye.gateway.money.bounds import bounds_of, most_cost
from wye.gateway.money.tiers import tier_of
from wye.gateway.money.usage import Usage, usage_of
from wye.gateway.records import FeedbackRecord
from wye.gateway.schema import feedback
from wye.gateway.upstream import Upstream, UpstreamError
from wye.gateway.witness import Glance

if TYPE_CHECKING:
    from wye.gateway.config import Target
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord
    from wye.gateway.store import Store

_LONGEST = 200_000
_KIND = "judge"
logger = logging.getLogger("wye.gateway")


class Transcript(Glance):
    """The text of an answer on any surface, whole or in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._length = 0

    def take(self, answer: Mapping[str, Any]) -> None:
        """Read a piece, or a whole answer."""
        self._read(answer)

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._parts)

    def _add(self, text: Any) -> None:
        if isinstance(text, str) and self._length < _LONGEST:
            self._parts.append(text)
            self._length += len(text)


@dataclass(eq=False)
class Assessment:
    """What is to be done with one answer once it is whole.

    Attributes:
        check: what the client says of a right answer; None where it says nothing.
        judged: whether the judge was drawn for it.
    """

    assessor: Assessor
    check: Check | None
    judged: bool
    transcript: Transcript = field(default_factory=Transcript)

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """Assess the answer, where there is one."""
        if outcome.status == "ok":
            self.assessor.assess(self, exchange)


class Assessor:
    """Turns answers into feedback. Used from the event loop.

    Args:
        table: of the judge; None without one.
        lanes, targets: to ask the judge by, and what it costs.
        store, registry: where feedback, overheads and counts go; what judging costs in a day is
            one sum for all gateways of the store.
        generator: draws the answers that are judged.
    """

    def __init__(
        self,
        table: JudgeTable | None,
        lanes: Mapping[str, Lane],
        targets: Mapping[str, Target],
        store: Store,
        registry: CollectorRegistry,
        generator: random.Random | None = None,
    ) -> None:
        self._table = table
        self._lanes = lanes
        self._targets = targets
        self._store = store
        self._generator = generator or random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spend = DailySpend(store.engine, _KIND, table.usd_per_day if table else None)
        self._told = False
        self.verdicts = Counter(
            "wye_verdicts", "Answers assessed, by source and what came of it.",
            ("source", "result"), registry=registry,
        )  # fmt: skip
        self.overhead = Counter(
            "wye_overhead_usd", "USD spent beside answers, by kind and target.",
            ("kind", "target"), registry=registry,
        )  # fmt: skip

    def begin(self, exchange: Exchange, check: Check | None) -> None:
        """Take a request under assessment, where it is checked or drawn."""
        table = self._table
        judged = table is not None and self._generator.random() < table.share
        if judged or check is not None:
            exchange.assessment = Assessment(self, check, judged)

    def assess(self, assessment: Assessment, exchange: Exchange) -> None:
        """Compare a whole answer with what was expected, and have it judged where it was drawn."""
        text = assessment.transcript.text
        if assessment.check is not None:
            right = assessment.check.holds(text)
            self.verdicts.labels("outcome", "right" if right else "wrong").inc()
            said = f"expected {assessment.check.stated[:200]}"
            self._feedback(exchange.decision_id, float(right), said, "outcome")
        # A verdict would not count beside a check's.
        elif assessment.judged and self._table is not None:
            if len(self._tasks) >= self._table.at_once:
                self.verdicts.labels("judge", "skipped").inc()
                return
            work = self._judge(self._table, exchange.decision_id, exchange.chat.text, text)
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up verdicts that are under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _judge(self, table: JudgeTable, decision: str, asked: str, answered: str) -> None:
        target = self._targets[table.target]
        body = question(asked, answered, target.upstream_model, table.max_output)
        held = await self._hold(table, target, body)
        if held is None:
            self.verdicts.labels("judge", "skipped").inc()
            return

        async def ask(upstream: Upstream) -> dict[str, Any]:
            return await upstream.complete(body)

        try:
            answer, call = await self._lanes[table.target].ask(ask, lambda *_: None)
            call.release()
        except (UpstreamError, ClosedError) as error:
            logger.warning("the judge %s did not answer: %s", table.target, error)
            self.verdicts.labels("judge", "failed").inc()
            await self._settle(held, 0.0)
            return
        transcript = Transcript()
        transcript.take(answer)
        quality, reason = grade(transcript.text)
        result = "unreadable" if quality is None else "graded"
        usage = usage_of(answer) or _guessed(body, transcript.text)
        cost = target.price(usage, told=tier_of(answer))
        await self._settle(held, cost or 0.0)
        if quality is not None and await asyncio.to_thread(self._known, decision):
            result = "superseded"
        self.verdicts.labels("judge", result).inc()
        self._book(decision, target, usage, cost, result)
        if quality is not None and result == "graded":
            self._feedback(decision, quality, reason[:500] or None, "judge")

    async def _hold(self, table: JudgeTable, target: Target, body: dict[str, Any]) -> Held | None:
        """Set aside what a verdict costs at most; None where the day has no room for it."""
        most = most_cost(target, bounds_of(body, table.max_output), table.max_output)
        if isinstance(most, str):
            # Without a price there is no limit either: the configuration would be refused.
            most = 0.0
        limit = table.usd_per_day
        if limit is not None and most > limit and not self._told:
            self._told = True
            logger.warning(
                "usd_per_day of [judge] is %g, and a verdict may cost %g: none is asked for",
                limit, most,
            )  # fmt: skip
        try:
            return await asyncio.to_thread(self._spend.hold, most)
        except STORE_ERRORS:
            # The store says itself that it cannot be written; without it no limit would hold.
            return None

    async def _settle(self, held: Held, cost: float) -> None:
        try:
            await asyncio.to_thread(self._spend.settle, held, cost)
        except STORE_ERRORS as error:
            # What was set aside stays so, and the limit holds.
            logger.warning("what judging cost cannot be written: %s", details(error))

    def _book(
        self, decision: str, target: Target, usage: Usage, cost: float | None, result: str
    ) -> None:
        if cost is not None:
            self.overhead.labels(_KIND, target.name).inc(cost)
        self._store.add(
            OverheadRecord(
                decision_id=decision,
                time=time.time(),
                kind=_KIND,
                target=target.name,
                input_tokens=usage.input,
                output_tokens=usage.output,
                cost_usd=cost,
                result=result,
            )
        )

    def _feedback(self, decision: str, quality: float, comment: str | None, source: str) -> None:
        self._store.add(FeedbackRecord(decision, time.time(), quality, comment, source))

    def _known(self, decision: str) -> bool:
        """Whether somebody judged the answer before."""
        self._store.flush()
        query = sa.select(feedback.c.number).where(feedback.c.decision_id == decision).limit(1)
        try:
            with self._store.engine.connect() as connection:
                return connection.execute(query).first() is not None
        except STORE_ERRORS:
            # The store says itself that it cannot be read; without it nothing supersedes.
            return False


def _guessed(asked: Mapping[str, Any], answered: str) -> Usage:
    """Tokens of a verdict whose usage was not reported, by the rule of thumb: it is billed too."""
    written = sum(len(message["content"]) for message in asked["messages"])
    return Usage(math.ceil(written / 4), math.ceil(len(answered) / 4))
