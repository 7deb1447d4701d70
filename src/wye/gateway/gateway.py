"""One running gateway: its parts, put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wye.gateway.answer_cache.cache import AnswerCache, answers_of
from wye.gateway.breaker import Breaker
from wye.gateway.config import Config, Target
from wye.gateway.conversation.switching import conversations_of
from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.dispatch import Dispatcher
from wye.gateway.gauges import Gauges
from wye.gateway.lane import Circuit, Deployment, Lane
from wye.gateway.learning.assessor import Assessor
from wye.gateway.learning.version_keeper import VersionKeeper
from wye.gateway.metrics import Metrics
from wye.gateway.money.admission import Admission
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.key_ring import KeyRing
from wye.gateway.money.keys import KeyBook
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.limits import Limiter
from wye.gateway.onlookers import Onlookers, look_on, watched
from wye.gateway.places import Places
from wye.gateway.reports import spent_by_policy
from wye.gateway.router_service import RouterService
from wye.gateway.schema import prompt_engine, write_targets
from wye.gateway.store import Store
from wye.gateway.upstream import UpstreamError, build_upstreams
from wye.gateway.watch.vectors import SharedEmbedder, sharing
from wye.query.base import QueryRouter

if TYPE_CHECKING:
    from wye.gateway.watch.guarding import RequestGuard

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
    keeper: VersionKeeper
    assessor: Assessor
    lanes: Mapping[str, Lane]
    places: Places
    store: Store
    metrics: Metrics
    answers: AnswerCache | None
    gauges: Gauges
    dispatcher: Dispatcher
    ring: KeyRing
    admission: Admission
    ledger: Ledger
    group: GroupCommit
    onlookers: Onlookers
    frontier: Mapping[str, Any] | None
    playground: tuple[Mapping[str, Any], ...]

    @property
    def breakers(self) -> Mapping[str, Circuit]:
        """The circuit of each target."""
        return {name: lane.circuit for name, lane in self.lanes.items()}

    @property
    def deployments(self) -> list[Deployment]:
        """Every deployment of every target."""
        return [deployment for lane in self.lanes.values() for deployment in lane.deployments]

    @property
    def body_limit(self) -> int:
        """Most bytes of a request's body."""
        return int(self.config.server.max_body_mb * 1024 * 1024)

    async def start(self) -> None:
        """Start every upstream; one that cannot is left to its circuit breaker."""
        for deployment in self.deployments:
            try:
                await deployment.upstream.start()
            except UpstreamError as error:
                logger.error("%s does not start: %s", deployment.name, error)
                deployment.breaker.failed()
        await self.keeper.start()
        self.onlookers.start(self.dispatcher)

    async def close(self) -> None:
        """Stop the upstreams, then write what the store still holds."""
        await self.onlookers.stop()
        await self.assessor.close()
        await self.keeper.close()
        await asyncio.gather(*(d.upstream.close() for d in self.deployments))
        await asyncio.to_thread(self._close_books)

    def _close_books(self) -> None:
        self.onlookers.close()
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
    lanes = _lanes(config)
    onlookers = look_on(config)
    router, shared = sharing(router) if config.guard or config.watch else (router, None)
    guard = _guard(config, shared)
    store = Store(
        config.store.place(),
        batch_seconds=config.store.batch_seconds,
        max_pending=config.store.max_pending,
        connections=config.store.connections,
        redact=onlookers.redact if config.logs is not None and config.logs.redact_store else None,
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
        ledger = Ledger(
            group,
            lease_seconds=config.money.lease_seconds,
            session_seconds=config.money.session_days * 86400,
        )
        _recover(ledger, store)
    except BaseException:
        store.close()
        raise
    metrics = Metrics(config.metrics)
    onlookers = watched(
        onlookers, config, store, metrics, router=router, shared=shared, guard=guard
    )
    limiter = Limiter(group if config.money.rate_limits == "store" else None)
    return Gateway(
        config=config,
        service=service,
        keeper=VersionKeeper(service, store, config),
        assessor=Assessor(config.judge, lanes, service.by_name, store, metrics.registry),
        lanes=lanes,
        places=Places(
            config.server.max_in_flight, config.server.queue, config.server.queue_seconds
        ),
        store=store,
        metrics=metrics,
        answers=answers_of(config, metrics, store),
        gauges=Gauges(metrics),
        dispatcher=Dispatcher(
            service,
            lanes,
            store,
            metrics,
            onlookers.witnesses,
            conversations=conversations_of(config),
            guard=guard,
        ),
        ring=ring,
        admission=Admission(config.targets, ledger, limiter, config.money.default_max_output),
        ledger=ledger,
        group=group,
        onlookers=onlookers,
        frontier=frontier,
        playground=playground,
    )


def _guard(config: Config, shared: SharedEmbedder | None) -> RequestGuard | None:
    if config.guard is None:
        return None
    from wye.gateway.watch.guarding import RequestGuard

    return RequestGuard(config.guard, [target.name for target in config.targets], shared)


def _lanes(config: Config) -> dict[str, Lane]:
    upstreams = build_upstreams([one for target in config.targets for one in target.served_by])
    generator = random.Random()

    def lane(target: Target) -> Lane:
        weights = [deployment.weight for deployment in target.deployments] or [1.0]
        deployments = [
            Deployment(
                one.name,
                upstreams[one.name],
                Breaker(failures=config.breaker.failures, cooldown=config.breaker.cooldown),
                weight,
            )
            for one, weight in zip(target.served_by, weights, strict=True)
        ]
        return Lane(
            deployments,
            balance=target.balance,
            retries=config.retries,
            max_in_flight=target.max_in_flight,
            hedge_after=target.hedge_after,
            generator=generator,
        )

    return {target.name: lane(target) for target in config.targets}


def _recover(ledger: Ledger, store: Store) -> None:
    """Book what gateways that are gone had reserved; where that fails, a later beat does it."""
    try:
        ledger.recover(store.engine)
    except STORE_ERRORS as error:
        logger.error(
            "what other gateways had reserved cannot be looked through: %s", details(error)
        )
