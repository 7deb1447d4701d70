"""The contract of an upstream: what the gateway asks of whatever answers for a target.

Routes nothing itself: it carries one request, already routed, to one target. Four kinds ship with
wye: `openai` and `anthropic` (`wye.gateway.endpoint`), `embedded` (`wye.gateway.embedded`) and
`provider` (`wye.gateway.providers`, extra `providers`).
Third parties add theirs through the entry point group `wye.upstreams`, whose value is a callable
`(target: wye.gateway.config.Target) -> Upstream`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.gateway.config import Target

GROUP = "wye.upstreams"


class Fault(StrEnum):
    """Why an upstream did not answer."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    RESET = "reset"
    STATUS = "status"
    RATE_LIMIT = "rate_limit"
    GARBAGE = "garbage"
    CUT = "cut"
    CONTEXT = "context"
    REQUEST = "request"
    UNSUPPORTED = "unsupported"
    STOPPED = "stopped"
    HEDGED = "hedged"


_ALIVE = {Fault.REQUEST, Fault.CONTEXT, Fault.UNSUPPORTED, Fault.STOPPED, Fault.HEDGED}


class UpstreamError(Exception):
    """An upstream did not answer.

    Args:
        message: what happened, without keys or prompts; shown to clients and in the log.
        fault: its kind. `REQUEST` means that the request itself is wrong: no other target is asked.
            `CONTEXT` and `UNSUPPORTED` mean that this target cannot take it, another might; they do
            not count against the target. `STOPPED` means that the gateway itself stops,
            `HEDGED` that another call for the same request answered first.
        status: HTTP status the upstream gave, if any.
        body: the upstream's own error object, passed on when the request is at fault.
        retry_after: seconds for which the upstream asked to be left alone.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: Fault,
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.status = status
        self.body = dict(body) if body is not None else None
        self.retry_after = retry_after

    @property
    def elsewhere(self) -> bool:
        """Whether another target may do better."""
        return self.fault not in {Fault.REQUEST, Fault.STOPPED}

    @property
    def counts(self) -> bool:
        """Whether it speaks against the target's health."""
        return self.fault not in _ALIVE


class Upstream(ABC):
    """What answers for one target.

    Requests and answers are plain dicts: OpenAI's chat completion objects, and for a target that
    says so (`speaks`) objects of other surfaces (`wye.gateway.surfaces`), whose requests are of the
    class `Body`. Cancelling the task that awaits either method must end the work behind it.
    """

    @abstractmethod
    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer, for chat a `chat.completion` object.

        Raises:
            UpstreamError: no answer came.
        """

    @abstractmethod
    def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, for chat `chat.completion.chunk` objects.

        A piece carries `usage` where the upstream can tell it. The iterator ends only after
        the answer is complete.

        Raises:
            UpstreamError: no answer came, or it broke off.
        """

    async def count_tokens(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """How many tokens a messages request has, as Anthropic's API says it.

        Raises:
            UpstreamError: it cannot be asked, or no answer came.
        """
        raise UpstreamError("counts no tokens", fault=Fault.UNSUPPORTED)

    async def start(self) -> None:  # noqa: B027
        """Make ready (open a connection pool, load a model). Called once, before any request."""

    async def close(self) -> None:  # noqa: B027
        """Let go of everything held. Called once."""


@asynccontextmanager
async def closing(pieces: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Close an iterator at the end where it can be closed (an async generator can)."""
    try:
        yield
    finally:
        await close(pieces)


async def close(pieces: AsyncIterator[Any]) -> None:
    """Close an iterator that can be closed; what it still held is let go at once."""
    aclose = getattr(pieces, "aclose", None)
    if aclose is not None:
        await aclose()


UpstreamFactory = Callable[["Target"], Upstream]


def build_upstreams(targets: Iterable[Target]) -> dict[str, Upstream]:
    """The upstream of each target, by the target's name; not started yet.

    Raises:
        ConfigError: a target has a kind that nothing provides, or its options are wrong.
    """
    from wye.gateway.config import ConfigError

    factories = _factories()
    built = {}
    for target in targets:
        if target.kind not in factories:
            raise ConfigError(
                f"target {target.name} has kind {target.kind!r}; known are {sorted(factories)}. "
                f"Others come from packages with an entry point in the group {GROUP}"
            )
        try:
            upstream = factories[target.kind]()(target)
            built[target.name] = _translating(target, upstream) if target.translated else upstream
        except (ValueError, TypeError) as error:
            raise ConfigError(f"target {target.name}: {error}") from error
    return built


def _factories() -> dict[str, Callable[[], UpstreamFactory]]:
    """Every kind of upstream by name, with a callable that imports its factory."""
    from importlib.metadata import entry_points

    @cache
    def endpoint() -> UpstreamFactory:
        from wye.gateway.endpoint import Endpoint

        return Endpoint

    @cache
    def provider() -> UpstreamFactory:
        from wye.gateway.providers.provider import Provider

        return lambda target: Provider(target, str(target.provider), target.base_url)

    @cache
    def embedded() -> UpstreamFactory:
        from wye.gateway.embedded import Embedded, SharedModel

        # One process of the model serves all its strategies.
        return partial(Embedded, model=SharedModel())

    others: dict[str, Callable[[], UpstreamFactory]] = {
        point.name: point.load for point in entry_points(group=GROUP)
    }
    ours = {
        "openai": endpoint, "anthropic": endpoint, "embedded": embedded, "provider": provider,
    }  # fmt: skip
    return {**others, **ours}


def _translating(target: Target, upstream: Upstream) -> Upstream:
    from wye.gateway.providers.translating import Translating

    return Translating(target, upstream)
