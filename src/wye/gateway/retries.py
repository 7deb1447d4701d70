"""Whether and when to ask the same target again, before anything was sent to the client.

A retry mends a connection that broke and a server that stumbled, and nothing else. It waits a
random time below a bound that doubles, so that clients that failed together do not come back
together. A target that says when to come back is taken at its word where that is soon; otherwise
another target answers at once. A budget keeps retries a share of requests, so that they cannot
multiply the load of a target that is down.

Source: M. Brooker, "Exponential backoff and jitter" (AWS Architecture Blog, 2015), full jitter;
B. Beyer and others, "Site Reliability Engineering" (2016), chapter 21 (retry budgets).
"""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from wye.gateway.upstream import Fault, UpstreamError

_SERVER_ERRORS = range(500, 600)


class RetryTable(BaseModel):
    """How often and when a target is asked again.

    Attributes:
        attempts: most retries of one request at one target; 0 turns them off.
        base: seconds below which the first wait lies; doubles with each retry.
        cap: most seconds of a wait; a target that asks for more is not asked again.
        share: retries that each request adds to the budget of its target.
        reserve: retries that the budget holds at the start, and at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: Annotated[int, Field(ge=0, le=10)] = 1
    base: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    reserve: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0


class RetryBudget:
    """What one target's retries may take: never more than `reserve + share * requests`."""

    def __init__(self, share: float, reserve: float) -> None:
        self._share = share
        self._reserve = self._left = reserve

    def request(self) -> None:
        """A request came; it earns a share of a retry."""
        self._left = min(self._left + self._share, max(self._reserve, 1.0))

    def take(self) -> bool:
        """Take one retry; False where the budget is used up."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def wait_before(
    error: UpstreamError, retry: int, table: RetryTable, generator: random.Random
) -> float | None:
    """Seconds to wait before asking again; None where that would mend nothing.

    Args:
        error: what the target answered last.
        retry: retries made so far for this request.
        table: see `RetryTable`.
        generator: of the jitter.
    """
    if retry >= table.attempts or not _may_pass(error):
        return None
    asked = error.retry_after or 0.0
    if asked > table.cap:
        return None
    spread = min(table.cap, table.base * 2**retry)
    # The jitter comes on top of what was asked for: earlier would be refused again.
    return asked + generator.uniform(0.0, spread)


def _may_pass(error: UpstreamError) -> bool:
    """Whether the same request may well succeed at the same place a moment later."""
    if error.fault in {Fault.CONNECT, Fault.RESET}:
        return True
    if error.fault is Fault.RATE_LIMIT:
        return error.retry_after is not None
    return error.fault is Fault.STATUS and error.status in _SERVER_ERRORS
