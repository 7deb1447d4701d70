"""Virtual keys: who may use the gateway, for how much, how often and for what.

A key is 256 random bits, shown once. The store holds its SHA-256: a slow hash guards secrets that
can be guessed, and nobody guesses one of 2^256, so a fast hash leaves nothing to attack and keeps
the check off the cost of a request. Keys live in the store, so gateways that share it share them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from wye.errors import WyeError
from wye.gateway.money.books import Balance, Books
from wye.gateway.money.nano import MOST_USD, at_most, dollars
from wye.gateway.records import new_id
from wye.gateway.schema import accounts, keys

MARK = "wye_"
_SHOWN = 12
_MONEY = ("budget_day", "budget_month", "budget_total", "per_request", "per_session")
_RATES = ("requests_per_minute", "tokens_per_minute")


class KeysError(WyeError):
    """A key cannot be made, found or changed; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """What a key may do; None is no limit.

    Attributes:
        budget_day, budget_month, budget_total: USD, days and months in UTC.
        per_request: USD that one request may cost at most.
        per_session: USD of all requests that name the same session.
        requests_per_minute, tokens_per_minute: see `wye.gateway.money.limits`.
        targets: names of the targets that may be asked.
        policy: what the model "wye" means for this key.
        expires: seconds since 1970 after which the key is refused.
    """

    budget_day: float | None = None
    budget_month: float | None = None
    budget_total: float | None = None
    per_request: float | None = None
    per_session: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    targets: tuple[str, ...] | None = None
    policy: str | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        for name in _MONEY:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MOST_USD:
                raise KeysError(f"{name} is {value}; expected USD from 0 to {MOST_USD:,.0f}")
        for name in _RATES:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10**9:
                raise KeysError(f"{name} is {value}; expected a whole number from 1 to 1e9")
        if self.targets is not None and not self.targets:
            raise KeysError("targets is empty; name at least one, or leave the limit out")
        if self.expires is not None and not math.isfinite(self.expires):
            raise KeysError(f"expires is {self.expires}; expected seconds since 1970")


LIMITS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True)
class Key:
    """A virtual key as the store knows it.

    Attributes:
        prefix: the first characters of the secret, to recognise it by.
        created, revoked: seconds since 1970.
    """

    id: str
    name: str
    prefix: str
    created: float
    revoked: float | None
    limits: Limits

    def refusal(self, now: float) -> str | None:
        """Why the key is not good at `now` (seconds since 1970); None where it is."""
        if self.revoked is not None:
            return f"the key {self.prefix}... was revoked"
        if self.limits.expires is not None and self.limits.expires <= now:
            return f"the key {self.prefix}... has expired"
        return None

    @property
    def reserves(self) -> bool:
        """Whether what a request costs must be reserved before it is sent."""
        limits = self.limits
        budgets = (limits.budget_day, limits.budget_month, limits.budget_total, limits.per_session)
        return any(budget is not None for budget in budgets)

    def may_use(self, target: str) -> bool:
        """Whether the key may ask a target."""
        return self.limits.targets is None or target in self.limits.targets


def digest_of(secret: str) -> str:
    """What the store holds of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class KeyBook:
    """The keys of one store.

    Args:
        engine: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, name: str, limits: Limits | None = None) -> tuple[Key, str]:
        """Make a key; the secret, which is not kept, comes with it.

        Raises:
            KeysError: the name is taken or unusable.
        """
        name = _clean(name)
        secret = MARK + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        limits = limits or Limits()
        key = Key(new_id(), name, secret[:_SHOWN], self._clock(), None, limits)
        row = {
            "id": key.id,
            "name": name,
            "prefix": key.prefix,
            "digest": digest_of(secret),
            "created": key.created,
            **_columns({field: getattr(limits, field) for field in LIMITS}),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(keys).values(row))
                connection.execute(sa.insert(accounts).values(key_id=key.id))
        except sa.exc.IntegrityError as error:
            raise KeysError(
                f"there is a key named {name!r} already (names of revoked keys stay theirs, so "
                "that their spend can be told); choose another name"
            ) from error
        return key, secret

    def list(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.id)).mappings()
            return [_key(row) for row in rows]

    def get(self, name: str) -> Key:
        """The key of a name.

        Raises:
            KeysError: there is none.
        """
        with self._engine.connect() as connection:
            query = sa.select(keys).where(keys.c.name == _clean(name))
            row = connection.execute(query).mappings().first()
        if row is None:
            known = ", ".join(key.name for key in self.list()[-20:]) or "none"
            raise KeysError(f"there is no key named {name!r}; known are: {known}")
        return _key(row)

    def revoke(self, name: str) -> Key:
        """Refuse the key from now on, for good.

        Raises:
            KeysError: there is none, or it is revoked already.
        """
        key = self.get(name)
        if key.revoked is not None:
            raise KeysError(f"the key {key.name!r} is revoked already")
        return self._update(key, {"revoked": self._clock()})

    def change(self, name: str, changes: Mapping[str, Any]) -> Key:
        """Set some limits (None removes one); the others stay.

        Raises:
            KeysError: there is no such key, or a limit is impossible.
        """
        key = self.get(name)
        replace(key.limits, **changes)
        return self._update(key, _columns(changes))

    def find(self, secret: str) -> Key | None:
        """The key with this secret, revoked and expired ones too; None where there is none."""
        wanted = digest_of(secret)
        with self._engine.connect() as connection:
            query = sa.select(keys).where(keys.c.digest == wanted)
            row = connection.execute(query).mappings().first()
        if row is None or not hmac.compare_digest(row["digest"], wanted):
            return None
        return _key(row)

    def balance(self, key: Key) -> Balance:
        """What a key has spent and holds reserved, in its present windows."""
        with self._engine.connect() as connection:
            return Books("", self._clock).balance(connection, key.id)

    def balances(self) -> dict[str, Balance]:
        """`balance` of every key, by its id."""
        with self._engine.connect() as connection:
            return Books("", self._clock).balances(connection)

    def named(self, key_id: str) -> Key:
        """The key of an id.

        Raises:
            KeysError: there is none.
        """
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(keys).where(keys.c.id == key_id)).mappings().first()
        if row is None:
            raise KeysError(f"there is no key with the id {key_id[:80]!r}")
        return _key(row)

    def any(self) -> bool:
        """Whether there is any key, good or not."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(keys.c.id).limit(1)).first() is not None

    def _update(self, key: Key, values: Mapping[str, Any]) -> Key:
        with self._engine.begin() as connection:
            connection.execute(sa.update(keys).where(keys.c.id == key.id).values(dict(values)))
        return self.get(key.name)


def _clean(name: str) -> str:
    """A name in Unicode's composed form, so that what looks the same is the same."""
    name = unicodedata.normalize("NFC", name).strip()
    strange = [c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    if not name or len(name) > 100 or strange:
        raise KeysError(
            f"{name[:120]!r} cannot be the name of a key; expected 1 to 100 characters on one line"
        )
    return name


def _columns(limits: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(limits)
    for name in _MONEY:
        if row.get(name) is not None:
            row[name] = at_most(row[name])
    if row.get("targets") is not None:
        row["targets"] = list(row["targets"])
    return row


def _key(row: Mapping[Any, Any]) -> Key:
    values = {name: row[name] for name in LIMITS}
    for name in _MONEY:
        if values[name] is not None:
            values[name] = dollars(values[name])
    if values["targets"] is not None:
        values["targets"] = tuple(values["targets"])
    known = {name: row[name] for name in ("id", "name", "prefix", "created", "revoked")}
    return Key(**known, limits=Limits(**values))
