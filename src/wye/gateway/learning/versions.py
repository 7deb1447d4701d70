"""Versions of policies in the store: what there is, which one decides, and the way back.

A version is a router and a table of policies. Uses form a history that is only added to; the last
one says what decides, and going back takes up what decided before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.errors import WyeError
from wye.gateway.config import Config
from wye.gateway.learning.artefact import packed, unpacked
from wye.gateway.learning.experiments import refuse_while_compared
from wye.gateway.learning.steps import Wanted, step, wanted
from wye.gateway.learning.tables import policy_gateways, policy_uses, policy_versions
from wye.gateway.policy_set import PolicySet
from wye.query.base import QueryRouter

CONFIGURED = "wye.toml"
_USE, _BACK = "use", "rollback"
_ALIVE_SECONDS = 30.0


class VersionsError(WyeError):
    """A version cannot be found, used or left; the message says what to do."""


@dataclass(frozen=True)
class Version:
    """A version as the store knows it, without its router.

    Attributes:
        id: twelve hex digits over the router and the policies.
        created: seconds since 1970.
        note: what somebody said of it.
        origin: "wye.toml" where a gateway began with it, "added" where it came by command.
        policies: tables by name, as in `wye.toml`.
        router: its system's name; None where priors alone estimate.
        size: bytes of its router.
    """

    id: str
    created: float
    note: str
    origin: str
    policies: Mapping[str, Mapping[str, Any]]
    default_policy: str
    router: str | None
    size: int


@dataclass(frozen=True)
class Use:
    """A version that was put to use, or come back to."""

    number: int
    time: float
    kind: str
    version: str | None
    reason: str


@dataclass(frozen=True)
class GatewayReport:
    """By what a running gateway decides; `error` says why not by what it should."""

    gateway: str
    seen: float
    version: str
    digest: str
    error: str | None


class VersionBook:
    """The versions of one store.

    Args:
        engine: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def record(self, policies: PolicySet, *, note: str, origin: str) -> bool:
        """Keep a set of policies with its router; False where the store has it already.

        Raises:
            RouterError: its router cannot be saved.
        """
        if self._held(policies.version):
            return False
        router = policies.router
        row = {
            "id": policies.version,
            "created": self._clock(),
            "note": note,
            "origin": origin,
            "policies": json.loads(json.dumps(policies.tables)),
            "default_policy": policies.default_policy,
            "router": router.name if router is not None else None,
            "artefact": packed(router) if router is not None else None,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(policy_versions).values(row))
        except sa.exc.IntegrityError:
            # Another gateway was quicker with the same one.
            return False
        return True

    def load(self, version: str, config: Config) -> tuple[Config, QueryRouter | None]:
        """A configuration with the version's policies in the place of its own, and its router.

        Raises:
            VersionsError: there is none, or its policies are not for this configuration.
            RouterError: its router is damaged, or of a kind that is not installed.
        """
        with self._engine.connect() as connection:
            query = sa.select(policy_versions).where(policy_versions.c.id == version)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise VersionsError(f"there is no version {version!r} in the store")
        tables = {"policies": row["policies"], "default_policy": row["default_policy"]}
        try:
            ours = Config.model_validate({"targets": config.targets, **tables})
        except ValueError as error:
            raise VersionsError(f"the policies of {version} cannot be used: {error}") from error
        changed = {name: getattr(ours, name) for name in tables}
        artefact = row["artefact"]
        router = unpacked(bytes(artefact)) if artefact is not None else None
        return config.model_copy(update=changed), router

    def all(self) -> list[Version]:
        """Every version, newest first."""
        columns = [c for c in policy_versions.c if c.name != "artefact"]
        size = sa.func.coalesce(sa.func.length(policy_versions.c.artefact), 0).label("size")
        query = sa.select(*columns, size).order_by(
            policy_versions.c.created.desc(), policy_versions.c.id
        )
        with self._engine.connect() as connection:
            return [Version(**row) for row in connection.execute(query).mappings()]

    def get(self, given: str) -> Version:
        """The version whose id is or begins with `given`.

        Raises:
            VersionsError: there is none, or more than one.
        """
        known = self.all()
        found = [v for v in known if v.id == given] or [v for v in known if v.id.startswith(given)]
        if len(found) == 1 and given:
            return found[0]
        names = ", ".join(v.id for v in (found or known)[:10]) or "none"
        why = "more than one version begins with" if given and found else "there is no version"
        raise VersionsError(f"{why} {given!r}; known are {names}")

    def uses(self) -> list[Use]:
        """What was put to use, newest first."""
        with self._engine.connect() as connection:
            return _uses(connection)

    def wanted(self) -> Wanted:
        """What should decide."""
        with self._engine.connect() as connection:
            return wanted(connection)

    def use(self, version: str | None, reason: str) -> None:
        """Have a version decide at every gateway of the store; None: what each one's wye.toml says.

        Raises:
            VersionsError: it decides already.
            ExperimentError: an experiment compares with what decides.
        """
        with step(self._engine) as connection:
            self.use_within(connection, version, reason)

    def use_within(self, connection: sa.Connection, version: str | None, reason: str) -> None:
        """The same, in a step that does more."""
        refuse_while_compared(connection)
        if version == wanted(connection).version:
            raise VersionsError(f"{version or CONFIGURED} decides already")
        self._add(connection, _USE, version, reason)

    def rollback(self, reason: str) -> str | None:
        """Have the version decide that decided before the present one, and say which.

        Raises:
            VersionsError: nothing decided before.
            ExperimentError: an experiment compares with what decides.
        """
        with step(self._engine) as connection:
            return self.rollback_within(connection, reason)

    def rollback_within(self, connection: sa.Connection, reason: str) -> str | None:
        """The same, in a step that does more."""
        refuse_while_compared(connection)
        before = _before(_uses(connection))
        if not before:
            raise VersionsError("nothing decided before the present version")
        self._add(connection, _BACK, before[-1], reason)
        return before[-1]

    def before(self) -> list[str | None]:
        """What decided before the present version, the latest last; empty where nothing did."""
        return _before(self.uses())

    def report(self, report: GatewayReport) -> None:
        """Say by what a gateway decides."""
        mine = policy_gateways.c.gateway == report.gateway
        with self._engine.begin() as connection:
            connection.execute(sa.delete(policy_gateways).where(mine))
            connection.execute(sa.insert(policy_gateways).values(vars(report)))

    def leave(self, gateway: str) -> None:
        """Forget a gateway that stops, and those that are long gone."""
        gone = sa.or_(
            policy_gateways.c.gateway == gateway,
            policy_gateways.c.seen < self._clock() - 10 * _ALIVE_SECONDS,
        )
        with self._engine.begin() as connection:
            connection.execute(sa.delete(policy_gateways).where(gone))

    def gateways(self) -> list[GatewayReport]:
        """The gateways that run."""
        query = sa.select(policy_gateways).where(
            policy_gateways.c.seen >= self._clock() - _ALIVE_SECONDS
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(policy_gateways.c.gateway)).mappings()
            return [GatewayReport(**row) for row in rows]

    def _held(self, version: str) -> bool:
        query = sa.select(policy_versions.c.id).where(policy_versions.c.id == version)
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def _add(self, connection: sa.Connection, kind: str, version: str | None, reason: str) -> None:
        row = {"time": self._clock(), "kind": kind, "version": version, "reason": reason}
        connection.execute(sa.insert(policy_uses).values(row))


def _uses(connection: sa.Connection) -> list[Use]:
    query = sa.select(policy_uses).order_by(policy_uses.c.number.desc())
    return [Use(**row) for row in connection.execute(query).mappings()]


def _before(uses: Sequence[Use]) -> list[str | None]:
    """What decided before the present version, of all uses, newest first; the latest last."""
    taken: list[str | None] = [None]
    for use in reversed(uses):
        if use.kind == _USE:
            taken.append(use.version)
        elif len(taken) > 1:
            taken.pop()
    return taken[:-1]
