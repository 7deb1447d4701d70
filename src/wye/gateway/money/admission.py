"""Money and limits around one request, from its key to its settlement.

    key -> rate limits -> choice among what the key may use and can pay -> reserve -> ask -> settle

A budget is inside the choice: a target that could cost more than what is left is left out, with the
reason, and the request goes to one that fits. Only where none fits is it refused. What is set aside
is the most the request can cost at the target (`wye.gateway.money.bounds`), so where that is known
no budget is ever exceeded. What is booked in the end is what the answer cost; an answer whose usage
never came is booked at what was set aside for it, since nobody can say it was less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wye.gateway.errors import ApiError
from wye.gateway.money.books import Left, Order, Reservation, Spend
from wye.gateway.money.bounds import bounds_of, most_cost
from wye.gateway.money.group_commit import LedgerError
from wye.gateway.money.keys import Key
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.limits import Limiter, Wait
from wye.gateway.money.nano import at_least, at_most, dollars
from wye.gateway.money.usage import Usage

if TYPE_CHECKING:
    from wye.gateway.config import Target
    from wye.gateway.openai_api import ChatRequest
    from wye.gateway.router_service import Routed

Decide = Callable[[Mapping[str, str]], "Routed"]
Again = Callable[[Mapping[str, str]], str | None]
# What is left is looked up anew unless it was so much, so lately, that it cannot matter.
_PLENTY, _PLENTY_SECONDS, _FRESH_SECONDS = 50, 10.0, 0.1


class Grant:
    """Leave to be answered, without a key: nothing is left out and nothing is booked."""

    key: Key | None = None
    session: str | None = None

    async def choose(self, decide: Decide) -> Routed:
        """What `decide` decides, given the targets to leave out and why."""
        return decide({})

    async def left_out(self) -> Mapping[str, str]:
        """The targets that would be left out at this moment, and why; nothing is set aside."""
        return {}

    async def again(
        self, choose: Again, undo: Callable[[], None], left_out: dict[str, str]
    ) -> str | None:
        """The next target by `choose`, which is given those to leave out; reasons may join them."""
        return choose(left_out)

    def settle(self, usage: Usage | None, cost: float | None, *, estimated: bool) -> None:
        """Say what the request used and cost, once."""

    @property
    def bounded(self) -> bool:
        """Whether money for one call, and no more, is set aside."""
        return self.key is not None and self.key.reserves

    @property
    def denied(self) -> Mapping[str, str]:
        """Targets that are not for this request at any time, with the reason."""
        return {}

    def refusal(self, left_out: Sequence[str], unfit: Sequence[str]) -> ApiError | None:
        """The error where nothing but money stands in the way of all that are `left_out`."""
        return None


class KeyedGrant(Grant):
    """Leave to be answered within the limits of a key.

    Args:
        key: who asks.
        session: the conversation, where the client names it.
        chat: the request.
        targets: all there are.
        default_output: output tokens to reserve for where nothing limits them.
    """

    def __init__(
        self,
        key: Key,
        session: str | None,
        chat: ChatRequest,
        *,
        targets: Sequence[Target],
        ledger: Ledger,
        limiter: Limiter,
        counted: int,
        default_output: int,
    ) -> None:
        self.key: Key = key
        self.session = session
        self._ledger = ledger
        self._limiter = limiter
        self._counted = counted
        # A session has an account only where it has a budget; without a name all share one.
        limited = key.limits.per_session is not None
        self._account = (session or "") if limited else None
        self._denied = {
            target.name: f"the key {key.name!r} may not use it"
            for target in targets
            if not key.may_use(target.name)
        }
        self._most: dict[str, int] = {}
        self._beyond: dict[str, str] = {}
        self._short: Left | None = None
        self._reservation: Reservation | None = None
        if key.reserves or key.limits.per_request is not None:
            bounds = bounds_of(chat.body, chat.max_output)
            for target in targets:
                self._bound(target.name, most_cost(target, bounds, default_output))

    def _bound(self, target: str, most: float | str) -> None:
        if target in self._denied:
            return
        if isinstance(most, str):
            self._beyond[target] = most
            return
        self._most[target] = at_least(most)
        allowed = self.key.limits.per_request
        if allowed is not None and self._most[target] > at_most(allowed):
            self._beyond[target] = (
                f"the request can cost up to ${most:.6f} there, the key allows ${allowed:.6f} a "
                "request"
            )

    @property
    def denied(self) -> Mapping[str, str]:
        """Targets that the key may not use."""
        return self._denied

    async def choose(self, decide: Decide) -> Routed:
        """The decision among targets that the key may use and can pay, and money for it.

        Raises:
            ApiError: 503 where the store cannot be written, so that no budget can be held.
        """
        barred = await self.left_out()
        while True:
            routed = decide({**barred, **self._beyond})
            if routed.target is None:
                return routed
            kept = False
            try:
                kept = await self._reserve(routed.target)
            except LedgerError as error:
                raise _unavailable(error) from error
            finally:
                if not kept:
                    # The policy learns that this choice cost nothing.
                    routed.settle(0.0)
            if kept:
                return routed

    async def left_out(self) -> Mapping[str, str]:
        """Targets that the key may not use, or cannot pay at this moment.

        Raises:
            ApiError: 503 where the store cannot be read.
        """
        if self.key.reserves and not self._has_plenty():
            try:
                self._leave_out(await self._ledger.left(self._order(0), within=_FRESH_SECONDS))
            except LedgerError as error:
                raise _unavailable(error) from error
        return {**self._denied, **self._beyond}

    async def again(
        self, choose: Again, undo: Callable[[], None], left_out: dict[str, str]
    ) -> str | None:
        """The next target that the key can pay; the money set aside moves there."""
        self._release()
        while True:
            left_out |= self._beyond
            target = choose(left_out)
            if target is None:
                return None
            kept = False
            try:
                kept = await self._reserve(target)
            except LedgerError as error:
                left_out[target] = f"the ledger cannot be written: {error}"
            finally:
                if not kept:
                    undo()
            if kept:
                return target

    def settle(self, usage: Usage | None, cost: float | None, *, estimated: bool) -> None:
        """Book what the request cost, and count the tokens that it took."""
        reservation, self._reservation = self._reservation, None
        spent = at_least(cost or 0.0)
        if reservation is not None:
            self._ledger.settle(reservation, reservation.amount if estimated else spent)
        elif spent:
            self._ledger.book(Spend(self.key.id, self._account, spent))
        self._limiter.correct(self.key, (usage.total if usage else 0) - self._counted)

    def refusal(self, left_out: Sequence[str], unfit: Sequence[str]) -> ApiError | None:
        """429 where every target that could serve the request costs more than the key has."""
        if not self._beyond or not set(left_out) <= {*self._beyond, *self._denied, *unfit}:
            return None
        why = "; ".join(f"{target}: {reason}" for target, reason in self._beyond.items())
        headers = {"x-should-retry": "false"}
        if self._short is not None and self._short.least is not None:
            window = self._short.least[0]
            seconds = _until_next(window)
            if seconds is not None:
                headers["retry-after"] = str(seconds)
        return ApiError(
            429,
            f"the budget of the key {self.key.name!r} has no room for this request: {why}",
            type="insufficient_quota",
            code="insufficient_quota",
            headers=headers,
        )

    def _order(self, amount: int) -> Order:
        return Order(self.key.id, self._account, amount)

    def _has_plenty(self) -> bool:
        known = self._ledger.remembered(self._order(0), within=_PLENTY_SECONDS)
        if known is None or known.least is None:
            return False
        return known.least[1] > _PLENTY * max(self._most.values(), default=0)

    async def _reserve(self, target: str) -> bool:
        """Set aside the most that the request can cost at a target; False where it does not fit."""
        if not self.key.reserves:
            return True
        made = await self._ledger.reserve(self._order(self._most[target]))
        if isinstance(made, Reservation):
            self._reservation = made
            return True
        self._leave_out(made)
        self._beyond.setdefault(target, "the key is no longer good")
        return False

    def _release(self) -> None:
        if self._reservation is not None:
            self._ledger.settle(self._reservation, 0)
            self._reservation = None

    def _leave_out(self, left: Left) -> None:
        if left.least is None:
            return
        window, free = left.least
        for target, most in self._most.items():
            if most > free:
                self._short = left
                self._beyond.setdefault(
                    target,
                    f"the request can cost up to ${dollars(most):.6f} there, the key has "
                    f"${dollars(free):.6f} left {_IN_WORDS[window]}",
                )


class Admission:
    """Lets requests in, each with its grant.

    Args:
        targets: all there are.
        ledger, limiter: hold budgets and rates.
        default_output: see `KeyedGrant`.
    """

    def __init__(
        self, targets: Sequence[Target], ledger: Ledger, limiter: Limiter, default_output: int
    ) -> None:
        self._targets = targets
        self._ledger = ledger
        self._limiter = limiter
        self._default_output = default_output

    async def admit(self, key: Key | None, session: str | None, chat: ChatRequest) -> Grant:
        """The grant of a request.

        Raises:
            ApiError: 429 where the key's rate limits say wait.
        """
        if key is None:
            grant = Grant()
            grant.session = session
            return grant
        refused = await self._limiter.admit(key, _tokens(chat))
        if refused is not None:
            raise _too_many(key, refused)
        return self.sight(key, session, chat)

    def sight(self, key: Key | None, session: str | None, chat: ChatRequest) -> Grant:
        """The grant that a request would get now, which no rate limit counts."""
        if key is None:
            return Grant()
        return KeyedGrant(
            key,
            session,
            chat,
            targets=self._targets,
            ledger=self._ledger,
            limiter=self._limiter,
            counted=_tokens(chat),
            default_output=self._default_output,
        )


def _tokens(chat: ChatRequest) -> int:
    """What a rate limit counts of a request before its answer is known."""
    return chat.input_tokens_estimate + (chat.max_output or 0)


_IN_WORDS = {
    "day": "for today (UTC)",
    "month": "for this month (UTC)",
    "total": "in total",
    "session": "for this session (header x-wye-session)",
}


def _until_next(window: str) -> int | None:
    """Seconds until a budget opens again; None where it never does."""
    if window == "day":
        return math.ceil(86400 - time.time() % 86400)
    return None


def _unavailable(error: LedgerError) -> ApiError:
    return ApiError(
        503,
        f"the key has a budget, and the ledger that holds it cannot be written: {error}",
        type="server_error",
        code="ledger_unavailable",
        headers={"retry-after": "5"},
    )


def _too_many(key: Key, refused: Wait) -> ApiError:
    limit = f"{refused.limit} {refused.kind} per minute"
    if math.isinf(refused.seconds):
        message = (
            f"the request takes up to {refused.amount} {refused.kind}, the key {key.name!r} is "
            f"allowed {limit}; send less, or a smaller max_completion_tokens"
        )
        headers = {"x-should-retry": "false"}
    else:
        seconds = max(1, math.ceil(refused.seconds))
        message = f"the key {key.name!r} is allowed {limit}; try again in {seconds} s"
        headers = {"retry-after": str(seconds)}
    return ApiError(429, message, type=refused.kind, code="rate_limit_exceeded", headers=headers)
