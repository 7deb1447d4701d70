"""Among the deployments of one target, which takes the next request.

Routes requests, already decided, to one of several servers of the same model, before any answer
exists, on the servers' weights, what they hold at the moment and how fast they answered lately.

- weighted: smooth weighted round robin, each in proportion to its weight and as evenly as can be.
- least-busy: the fewest requests in flight for its weight.
- latency: of two drawn at random, the one that costs less to wait for: latency times requests in
  flight, where latency is an average that jumps up with every peak and decays with time.

Sources: nginx, smooth weighted round robin (2012); M. Mitzenmacher, "The power of two choices in
randomized load balancing" (IEEE TPDS 12(10), 2001); Twitter Finagle, `PeakEwma` (2014).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from wye.gateway.addresses import unusable

Balance = Literal["weighted", "least-busy", "latency"]
_MEMORY_SECONDS = 10.0


def _usable(url: str) -> str:
    if (why := unusable(url)) is not None:
        raise PydanticCustomError(
            "base_url", "base_url is {given}; {why}", {"given": repr(url), "why": why}
        )
    return url


class DeploymentTable(BaseModel):
    """One server of a target; what is left out is as the target has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: Annotated[str, AfterValidator(_usable)]
    model: str | None = None
    api_key_env: str | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class PeakEwma:
    """Seconds that a server takes: up at once with a slow answer, down slowly.

    Args:
        memory: seconds after which a peak has decayed to 1/e, with or without traffic; so a server
            that was slow is tried again.
        clock: monotonic seconds.
    """

    def __init__(
        self, memory: float = _MEMORY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._value: float | None = None
        self._time = 0.0

    @property
    def seconds(self) -> float | None:
        """The average at this moment; None while nothing was measured."""
        if self._value is None:
            return None
        return self._value * math.exp((self._time - self._clock()) / self._memory)

    def observe(self, seconds: float) -> None:
        """An answer took so long."""
        now = self._clock()
        if self._value is None or seconds >= (self.seconds or 0.0):
            self._value = seconds
        else:
            kept = math.exp((self._time - now) / self._memory)
            self._value = self._value * kept + seconds * (1 - kept)
        self._time = now


class Server(Protocol):
    """What balancing reads of a deployment."""

    weight: float
    in_flight: int
    latency: PeakEwma


class Balancer:
    """Picks among the servers of one target.

    Args:
        balance: see the module.
        generator: draws the pairs of "latency".
    """

    def __init__(self, balance: Balance, generator: random.Random) -> None:
        self._generator = generator
        self._pick = {
            "weighted": self._weighted,
            "least-busy": self._least_busy,
            "latency": self._latency,
        }[balance]
        self._credit: dict[int, float] = {}

    def pick(self, servers: Sequence[Server]) -> int:
        """The place in `servers`, which must not be empty, of the one to ask."""
        return self._pick(servers)

    def _weighted(self, servers: Sequence[Server]) -> int:
        """Everybody earns its weight, the richest pays for all."""
        credit = self._credit
        for server in servers:
            credit[id(server)] = credit.get(id(server), 0.0) + server.weight
        chosen = max(range(len(servers)), key=lambda at: credit[id(servers[at])])
        credit[id(servers[chosen])] -= sum(server.weight for server in servers)
        return chosen

    def _least_busy(self, servers: Sequence[Server]) -> int:
        """Those that hold least for their weight take turns by weight."""
        load = [server.in_flight / server.weight for server in servers]
        least = min(load)
        free = [at for at, held in enumerate(load) if held == least]
        return free[self._weighted([servers[at] for at in free])]

    def _latency(self, servers: Sequence[Server]) -> int:
        pair = self._generator.sample(range(len(servers)), min(2, len(servers)))
        return min(pair, key=lambda at: _waiting(servers[at]))


def _waiting(server: Server) -> tuple[float, float]:
    """What a request costs to wait for here; a server never measured is tried by one request."""
    seconds, load = server.latency.seconds, (server.in_flight + 1) / server.weight
    if seconds is None:
        return (0.0 if server.in_flight == 0 else math.inf), load
    return seconds * load, load
