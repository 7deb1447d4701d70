"""Requests and tokens per minute of a key: the generic cell rate algorithm.

Each request moves the time at which the key's account is even (`due`) by its share of a minute; it
passes while that time lies no more than one minute ahead. So after a quiet minute a whole minute's
worth may come at once, and over any t seconds at most `limit * (1 + t / 60)`.

Tokens are counted when a request is admitted, as an estimate of its input and as much output as it
allows, and put right when its usage is known; an account may then be overdrawn, and is paid back at
the same rate. An answer overdraws by ten minutes at most, so that a huge one does not lock the key
out for longer; an account that seems overdrawn by twenty is one whose clock stepped back, and even.

In the store, one conditional UPDATE holds a limit over all gateways that share it; in memory each
gateway counts for itself and saves that transaction. A store that cannot be written leaves memory.

Source: ATM Forum, Traffic Management Specification 4.1 (1999), section 4.4.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from wye.gateway.money.group_commit import GroupCommit, Handler, LedgerError
from wye.gateway.money.keys import Key
from wye.gateway.schema import accounts

logger = logging.getLogger("wye.gateway")
MINUTE = 60 * 10**9
_MOST_OVERDRAWN = 10 * MINUTE
_CLOCK_STEPPED = 2 * _MOST_OVERDRAWN
_A = accounts.c


@dataclass(frozen=True)
class Rate:
    """What a request takes of one limit.

    Attributes:
        amount: requests or tokens.
        per_minute: the limit; None is none.
    """

    amount: int
    per_minute: int | None

    @property
    def cell(self) -> int:
        """Nanoseconds that one unit takes."""
        return MINUTE // self.per_minute if self.per_minute else 0

    @property
    def burst(self) -> int:
        """Nanoseconds that `due` may lie ahead."""
        return self.cell * self.per_minute if self.per_minute else _CLOCK_STEPPED


@dataclass(frozen=True)
class Passage:
    """A request that wants to pass a key's limits."""

    key_id: str
    requests: Rate
    tokens: Rate


@dataclass(frozen=True)
class Wait:
    """A request did not pass.

    Attributes:
        kind: "requests" or "tokens".
        limit: of them per minute.
        amount: of them that the request takes.
        seconds: until it would pass; infinite where it takes more than the limit.
    """

    kind: str
    limit: int
    amount: int
    seconds: float


def base(due: int, now: int) -> int:
    """From where a request counts: `due`, unless it is past or cannot be."""
    return due if now < due <= now + _CLOCK_STEPPED else now


def wait(rate: Rate, due: int, now: int) -> float:
    """Seconds until a request passes; 0 where it passes at once."""
    if rate.per_minute is None:
        return 0.0
    if rate.amount > rate.per_minute:
        return math.inf
    return max(0, base(due, now) + rate.amount * rate.cell - now - rate.burst) / 1e9


class Limiter:
    """Holds the rate limits of keys.

    Args:
        group: runs transactions; None counts in memory alone.
        clock: seconds since 1970.
    """

    def __init__(self, group: GroupCommit | None, clock: Callable[[], float] = time.time) -> None:
        self._group = group
        self._clock = clock
        self._memory: dict[str, tuple[int, int]] = {}
        self._pass = Handler(self.pass_in_store, key_of=lambda passage: passage.key_id)
        self._correct = Handler(self._correct_in_store, key_of=lambda shift: shift[0])

    async def admit(self, key: Key, tokens: int) -> Wait | None:
        """Let one request of so many tokens pass, or say how long it must wait."""
        limits = key.limits
        passage = Passage(
            key.id, Rate(1, limits.requests_per_minute), Rate(tokens, limits.tokens_per_minute)
        )
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return None
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            # Never passes, and may be more than the store can count.
            return Wait("tokens", limits.tokens_per_minute, tokens, math.inf)
        if self._group is not None:
            try:
                return await self._group.ask(self._pass, passage)
            except LedgerError as error:
                logger.warning("rate limits are counted in memory: %s", error)
        return self._pass_in_memory(passage)

    def correct(self, key: Key, tokens: int) -> None:
        """Count so many tokens more than were counted (fewer where negative)."""
        rate = Rate(tokens, key.limits.tokens_per_minute)
        if rate.per_minute is None or tokens == 0:
            return
        now = self._now()
        shift = max(-_MOST_OVERDRAWN, min(tokens * rate.cell, _MOST_OVERDRAWN))
        if self._group is not None:
            self._group.tell(self._correct, (key.id, shift, now))
        requests, due = self._memory.get(key.id, (0, 0))
        if shift > 0:
            due = min(base(due, now) + shift, now + _MOST_OVERDRAWN)
        else:
            due += shift
        self._memory[key.id] = (requests, due)

    def pass_in_store(
        self, connection: sa.Connection, passages: Sequence[Passage]
    ) -> list[Wait | None]:
        """Let requests pass in turn, inside a transaction."""
        by_key: dict[str, list[int]] = {}
        for place, passage in enumerate(passages):
            by_key.setdefault(passage.key_id, []).append(place)
        results: list[Wait | None] = [None] * len(passages)
        for key_id in sorted(by_key):
            places = by_key[key_id]
            found = self._pass_together(connection, [passages[place] for place in places])
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    def _pass_together(
        self, connection: sa.Connection, passages: Sequence[Passage]
    ) -> list[Wait | None]:
        """As if one came after the other: together where all pass, else half before half."""
        first, now = passages[0], self._now()
        requests = Rate(sum(p.requests.amount for p in passages), first.requests.per_minute)
        tokens = Rate(sum(p.tokens.amount for p in passages), first.tokens.per_minute)
        entry = {
            "key": first.key_id,
            "now": now,
            "stepped": now + _CLOCK_STEPPED,
            "requests": requests.amount * requests.cell,
            "requests_until": now + requests.burst,
            "tokens": tokens.amount * tokens.cell,
            "tokens_until": now + tokens.burst,
        }
        if connection.execute(_PASS, entry).rowcount:
            return [None] * len(passages)
        if len(passages) == 1:
            due = sa.select(_A.requests_due, _A.tokens_due).where(_A.key_id == first.key_id)
            return [_wait_of(first, *connection.execute(due).one(), now)]
        half = len(passages) // 2
        return [
            *self._pass_together(connection, passages[:half]),
            *self._pass_together(connection, passages[half:]),
        ]

    def _correct_in_store(
        self, connection: sa.Connection, corrections: Sequence[tuple[str, int, int]]
    ) -> list[None]:
        # In one order everywhere, and of one key as they came.
        for key_id, shift, now in sorted(corrections, key=lambda pair: pair[0]):
            entry = {"key": key_id, "tokens": shift}
            if shift > 0:
                clock = {
                    "now": now, "stepped": now + _CLOCK_STEPPED, "most": now + _MOST_OVERDRAWN
                }  # fmt: skip
                connection.execute(_OVERDRAW, {**entry, **clock})
            else:
                connection.execute(_REFUND, entry)
        return [None] * len(corrections)

    def _pass_in_memory(self, passage: Passage) -> Wait | None:
        now = self._now()
        requests, tokens = self._memory.get(passage.key_id, (0, 0))
        refused = _wait_of(passage, requests, tokens, now)
        if refused is None:
            self._memory[passage.key_id] = (
                base(requests, now) + passage.requests.amount * passage.requests.cell,
                base(tokens, now) + passage.tokens.amount * passage.tokens.cell,
            )
        return refused

    def _now(self) -> int:
        return int(self._clock() * 1e9)


def _wait_of(passage: Passage, requests_due: int, tokens_due: int, now: int) -> Wait | None:
    """The longer of the two waits; None where there is none."""
    waits = [
        Wait(kind, rate.per_minute or 0, rate.amount, wait(rate, due, now))
        for kind, rate, due in (
            ("requests", passage.requests, requests_due),
            ("tokens", passage.tokens, tokens_due),
        )
    ]
    longest = max(waits, key=lambda found: found.seconds)
    return longest if longest.seconds > 0 else None


def _base(due: sa.Column[int]) -> sa.ColumnElement[int]:
    now = sa.bindparam("now", type_=sa.BigInteger())
    stepped = sa.bindparam("stepped", type_=sa.BigInteger())
    return sa.case((sa.and_(due > now, due <= stepped), due), else_=now)


_KEY = _A.key_id == sa.bindparam("key")
_REQUESTS = _base(_A.requests_due) + sa.bindparam("requests")
_TOKENS = _base(_A.tokens_due) + sa.bindparam("tokens")
_PASS = (
    sa.update(accounts)
    .where(
        _KEY,
        sa.bindparam("requests_until") >= _REQUESTS,
        sa.bindparam("tokens_until") >= _TOKENS,
    )
    .values(requests_due=_REQUESTS, tokens_due=_TOKENS)
)
_MOST = sa.bindparam("most", type_=sa.BigInteger())
_OVERDRAW = (
    sa.update(accounts)
    .where(_KEY)
    .values(tokens_due=sa.case((_TOKENS > _MOST, _MOST), else_=_TOKENS))
)
_REFUND = sa.update(accounts).where(_KEY).values(tokens_due=_A.tokens_due + sa.bindparam("tokens"))
