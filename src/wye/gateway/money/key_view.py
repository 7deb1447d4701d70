"""A key as people and programs see it: its state, its limits, what it has spent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from wye.gateway.money.books import Balance
from wye.gateway.money.keys import LIMITS, Key, KeysError
from wye.gateway.money.nano import dollars

_MONEY = ("budget_day", "budget_month", "budget_total", "per_request", "per_session")
_RATES = ("requests_per_minute", "tokens_per_minute")


def state_of(key: Key) -> str:
    """`good`, `revoked` or `expired`."""
    if key.revoked is not None:
        return "revoked"
    return "expired" if key.refusal(time.time()) else "good"


def as_dict(key: Key) -> dict[str, Any]:
    """JSON-serialisable form, without any part of the secret but its first characters."""
    known = {"name": key.name, "id": key.id, "prefix": key.prefix, "state": state_of(key)}
    return {**known, "created": key.created, "revoked": key.revoked, "limits": vars(key.limits)}


def spent_of(balance: Balance) -> dict[str, dict[str, float]]:
    """USD spent and reserved, by the window's date, month, and `total`."""
    return {
        name: {"spent_usd": dollars(spent), "reserved_usd": dollars(reserved)}
        for name, spent, reserved in (
            (balance.day, balance.day_spent, balance.day_reserved),
            (balance.month, balance.month_spent, balance.month_reserved),
            ("total", balance.total_spent, balance.total_reserved),
        )
    }


def check_names(limits: Mapping[str, Any], targets: Iterable[str], policies: Iterable[str]) -> None:
    """The targets and the policy of limits must be configured.

    Raises:
        KeysError: one is not.
    """
    for kind, given, known in (
        ("target", limits.get("targets") or (), list(targets)),
        ("policy", [limits["policy"]] if limits.get("policy") else (), list(policies)),
    ):
        for name in given:
            if name not in known:
                raise KeysError(f"there is no {kind} {name!r}; configured are {', '.join(known)}")


def limits_from(body: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that a JSON object names, as `Limits` takes them; null removes one.

    Raises:
        KeysError: a name is unknown, or a value is of a wrong kind.
    """
    unknown = sorted(set(body) - set(LIMITS))
    if unknown:
        raise KeysError(f"unknown limit {unknown[0]!r:.80}; known are {', '.join(LIMITS)}")
    return {name: _value(name, value) for name, value in body.items()}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    # JSON's whole numbers have no end; beyond this no float can take them.
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if name in _MONEY and number:
        return float(value)
    if name in _RATES and number and float(value).is_integer():
        return int(value)
    if name == "expires" and number:
        if value <= time.time():
            raise KeysError(f"expires is {value!r}, which is past; to refuse a key, revoke it")
        return float(value)
    if name == "targets" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if name == "policy" and isinstance(value, str) and value:
        return value
    expected = (
        "USD as a number" if name in _MONEY
        else "a whole number" if name in _RATES
        else {"expires": "seconds since 1970", "targets": "a list of names"}.get(name, "a name")
    )  # fmt: skip
    raise KeysError(f"{name} is {value!r:.80}; expected {expected}, or null for no limit")
