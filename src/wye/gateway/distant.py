"""A router that embeds over the network: asked in threads of its own, and not for long.

Requests wait for its estimate, so an embedding is asked for once, and an endpoint that does not
answer is left alone for a while. Its threads are nobody else's: what waits for the endpoint keeps
nothing else of the gateway waiting.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wye.embed import Embedder, EmbedError
from wye.embed.endpoint import EndpointEmbedder
from wye.gateway.breaker import Breaker
from wye.query.base import QueryRouter, RouterError

logger = logging.getLogger("wye.gateway")
T = TypeVar("T")
PATIENCE_SECONDS = 2.0
_THREADS = 16


def embeds_remotely(router: QueryRouter | None) -> bool:
    """Whether an estimate calls an embeddings endpoint."""
    embedder = getattr(router, "embedder_", None) or getattr(router, "embedder", "")
    return str(getattr(embedder, "name", embedder)).startswith("endpoint:")


def in_haste(router: QueryRouter) -> QueryRouter:
    """The same router, whose endpoint is asked once and for `PATIENCE_SECONDS`."""
    embedder = getattr(router, "embedder_", None)
    if not isinstance(embedder, Embedder):
        return router
    same = copy.copy(router)
    same.embedder_ = _hasty(embedder)  # type: ignore[attr-defined]
    return same


def _hasty(embedder: Embedder) -> Embedder:
    if isinstance(embedder, EndpointEmbedder):
        return embedder.within(PATIENCE_SECONDS)
    inner = getattr(embedder, "inner", None)
    if not isinstance(inner, Embedder):
        return embedder
    same = copy.copy(embedder)
    same.inner = _hasty(inner)  # type: ignore[attr-defined]
    return same


class Distant:
    """Runs what calls the network, while the network answers."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="wye-embed")
        self._breaker = Breaker()

    async def ask(self, work: Callable[[], T]) -> T | None:
        """What `work` gives; None where it fails, takes too long, or has failed of late."""
        if not self._breaker.enter():
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await loop.run_in_executor(self._threads, work)
        except (RouterError, EmbedError) as error:
            self._fail(str(error))
            return None
        except TimeoutError:
            self._fail(f"no estimate came within {PATIENCE_SECONDS:g} s")
            return None
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return found

    def _fail(self, why: str) -> None:
        self._breaker.failed()
        wait = self._breaker.retry_after
        left = f"; it is left alone for {wait:.0f} s" if wait else ""
        logger.error("the router failed, priors decide: %s%s", why, left)
