"""A limit to each of many waits, one after another, by one timer for all of them.

A stream waits for every piece of its answer and hardly ever long. `asyncio.timeout` would make an
object and set a timer for each; here the timer of an earlier wait stands, looks at the clock when
it fires, and is set again where the present wait has time left.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self


class Patience:
    """Ends a wait that takes too long, by `TimeoutError`. One wait at a time, in any task.

    Example:
        >>> async def waits() -> None:
        ...     patience = Patience()
        ...     with patience.until(asyncio.get_running_loop().time() + 0.01):
        ...         await asyncio.sleep(10)
        >>> asyncio.run(waits())
        Traceback (most recent call last):
        ...
        TimeoutError
    """

    def __init__(self) -> None:
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._over = False

    def until(self, deadline: float) -> Self:
        """Limit the wait in the `with` block.

        Args:
            deadline: by the loop's clock, in seconds; infinity for a wait that only `expire` ends.
        """
        self._deadline = deadline
        return self

    def expire(self) -> None:
        """End the present wait at once; nothing happens where none is."""
        if self._task is not None and not self._over:
            self._over = True
            self._task.cancel()

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("Patience limits waits of a task; there is none here")
        self._task, self._over, self._cancelling = task, False, task.cancelling()
        if self._deadline < math.inf:
            self._set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if not self._over or task is None:
            return
        # As `asyncio.timeout`: a cancellation from outside goes on as one.
        alone = task.uncancel() <= self._cancelling
        if alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def _set(self) -> None:
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None or self._deadline == math.inf:
            return
        if asyncio.get_running_loop().time() >= self._deadline:
            self.expire()
        else:
            self._set()
