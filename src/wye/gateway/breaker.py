"""A circuit breaker per target: after repeated failures it is left alone for a while.

closed: requests pass. open: none passes until the cool-down is over. half open: one probe passes;
its success closes the circuit, its failure opens it for twice as long.

Source: M. Nygard, "Release It!" (2007), chapter 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The circuit before one target. Used from one event loop only, hence without locks.

    Args:
        failures: consecutive failures that open the circuit.
        cooldown: seconds it stays open the first time; doubles with each failed probe.
        cooldown_limit: most seconds it stays open.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        cooldown: float = 10.0,
        cooldown_limit: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or cooldown < 0 or cooldown_limit < cooldown:
            raise ValueError(
                f"got failures={failures}, cooldown={cooldown}, cooldown_limit={cooldown_limit}; "
                "expected failures >= 1 and 0 <= cooldown <= cooldown_limit"
            )
        self._threshold = failures
        self._cooldown = cooldown
        self._limit = cooldown_limit
        self._clock = clock
        self._failed = 0
        self._wait = cooldown
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Where the circuit stands at this moment."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    @property
    def available(self) -> bool:
        """Whether a request may pass, without taking the probe's place."""
        if self._open_until is None:
            return True
        return self.state is State.HALF_OPEN and not self._probing

    @property
    def retry_after(self) -> float:
        """Seconds until a request may pass; 0 when one may."""
        if self._open_until is None:
            return 0.0
        return max(0.0, self._open_until - self._clock())

    def enter(self) -> bool:
        """Ask to pass. True obliges the caller to report `succeeded`, `failed` or `abandoned`."""
        if self._open_until is None:
            return True
        if not self.available:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The target answered: the circuit closes."""
        self._failed, self._wait = 0, self._cooldown
        self._open_until, self._probing = None, False

    def failed(self, retry_after: float | None = None) -> None:
        """The target failed.

        Args:
            retry_after: seconds for which the target itself asked to be left alone; opens the
                circuit for that long (never beyond `cooldown_limit`).
        """
        probe, self._probing = self._probing, False
        self._failed += 1
        if retry_after is not None and retry_after > 0:
            self._open(min(retry_after, self._limit))
        elif probe:
            self._wait = min(self._wait * 2, self._limit)
            self._open(self._wait)
        elif self._failed >= self._threshold and self._open_until is None:
            self._open(self._wait)

    def abandoned(self) -> None:
        """The request ended without telling anything of the target (the client left)."""
        self._probing = False

    def _open(self, seconds: float) -> None:
        self._open_until = self._clock() + seconds
