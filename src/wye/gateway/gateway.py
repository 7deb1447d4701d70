"""One running gateway: its parts, put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.breaker import Breaker
from wye.gateway.config import Config
from wye.gateway.dispatch import Dispatcher
from wye.gateway.metrics import Metrics
from wye.gateway.money.admission import Admission
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.key_ring import KeyRing
from wye.gateway.money.keys import KeyBook
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.limits import Limiter
from wye.gateway.reports import spent_by_policy
from wye.gateway.router_service import RouterService
from wye.gateway.schema import prompt_engine, write_targets
from wye.gateway.store import Store
from wye.gateway.upstream import Upstream, UpstreamError, build_upstreams
from wye.query.base import QueryRouter

logger = logging.getLogger("wye.gateway")


@dataclass(frozen=True)
class Gateway:
    """The parts that a request meets, from `wye.toml` and a router.

    Attributes:
        frontier: what the router's training measured, for the dashboard; None where unknown.
        playground: prompts on which the choice matters, for the dashboard.
    """

    config: Config
    service: RouterService
    upstreams: Mapping[str, Upstream]
    breakers: Mapping[str, Breaker]
    store: Store
    metrics: Metrics
    dispatcher: Dispatcher
    ring: KeyRing
    admission: Admission
    ledger: Ledger
    group: GroupCommit
    frontier: Mapping[str, Any] | None
    playground: tuple[Mapping[str, Any], ...]

    @property
    def body_limit(self) -> int:
        """Most bytes of a request's body."""
        return int(self.config.server.max_body_mb * 1024 * 1024)

    async def start(self) -> None:
        """Start every upstream; one that cannot is left to its circuit breaker."""
        for name, upstream in self.upstreams.items():
            try:
                await upstream.start()
            except UpstreamError as error:
                logger.error("%s does not start: %s", name, error)
                self.breakers[name].failed()

    async def close(self) -> None:
        """Stop the upstreams, then write what the store still holds."""
        await asyncio.gather(*(u.close() for u in self.upstreams.values()))
        await asyncio.to_thread(self._close_books)

    def _close_books(self) -> None:
        self.group.close()
        self.ledger.close(self.store.engine)
        self.store.close()


def build(
    config: Config,
    router: QueryRouter | None = None,
    *,
    frontier: Mapping[str, Any] | None = None,
    playground: tuple[Mapping[str, Any], ...] = (),
) -> Gateway:
    """A gateway that is ready to start.

    Raises:
        ConfigError: a kind of upstream or policy is unknown, or its parameters are wrong.
        StoreError: the store cannot be opened.
    """
    upstreams = build_upstreams(config.targets)
    breakers = {
        t.name: Breaker(failures=config.breaker.failures, cooldown=config.breaker.cooldown)
        for t in config.targets
    }
    store = Store(
        config.store.file(),
        batch_seconds=config.store.batch_seconds,
        max_pending=config.store.max_pending,
    )
    try:
        write_targets(store.engine, config.targets)
        service = RouterService(config, router, spent_by_policy(store.engine))
        ring = KeyRing(
            KeyBook(store.engine),
            required=config.server.keys,
            fresh_seconds=config.money.key_seconds,
        )
        group = GroupCommit(prompt_engine(store.engine))
        ledger = Ledger(group, lease_seconds=config.money.lease_seconds)
        _recover(ledger, store)
    except BaseException:
        store.close()
        raise
    metrics = Metrics()
    limiter = Limiter(group if config.money.rate_limits == "store" else None)
    return Gateway(
        config=config,
        service=service,
        upstreams=upstreams,
        breakers=breakers,
        store=store,
        metrics=metrics,
        dispatcher=Dispatcher(service, upstreams, breakers, store, metrics),
        ring=ring,
        admission=Admission(config.targets, ledger, limiter, config.money.default_max_output),
        ledger=ledger,
        group=group,
        frontier=frontier,
        playground=playground,
    )


def _recover(ledger: Ledger, store: Store) -> None:
    """Book what gateways that are gone had reserved; where that fails, a later beat does it."""
    try:
        ledger.recover(store.engine)
    except sa.exc.DatabaseError as error:
        logger.error("what other gateways had reserved cannot be looked through: %s", error.orig)
