"""A target as people see it: what it is, what it costs and by whose word, how it stands now."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from wye.gateway.config import Target
from wye.gateway.figures import TargetFigures
from wye.gateway.money.prices import CONFIGURED

# A target that served nothing.
NOTHING: dict[str, Any] = {
    "requests": 0,
    "errors": 0,
    "share": 0.0,
    "spend_usd": None,
    "quality": None,
    "judged": 0,
    "latency_ms_p50": None,
    "latency_ms_p95": None,
}


def as_configured(target: Target) -> dict[str, Any]:
    """What `wye.toml` and the price table say of a target."""
    return {
        "name": target.name,
        "kind": target.kind,
        "model": target.upstream_model,
        "host": urlsplit(target.address or "").netloc.rpartition("@")[2] or None,
        "description": target.description,
        "tags": sorted(target.tags),
        "context": target.context,
        "speaks": list(target.surfaces),
        "prior_quality": target.quality,
        "prices": _prices(target),
    }


def as_it_stands(target: TargetFigures) -> dict[str, Any]:
    """The circuit and the load of a target, and of each of its deployments."""
    return {
        "state": target.state.value,
        "closed": target.closed,
        "in_flight": target.in_flight,
        "deployments": [one.model_dump() for one in target.deployments],
    }


def _prices(target: Target) -> dict[str, Any] | None:
    """USD per million tokens, with where and of when they are."""
    prices, listed = target.prices, target.listed
    if prices is None:
        return None
    from_table = prices.origin != CONFIGURED and listed is not None
    return {
        "input": prices.input,
        "output": prices.output,
        "cached_input": prices.cached_input,
        "cache_write": prices.cache_write,
        "origin": prices.origin,
        "date": listed.date.isoformat() if listed is not None and from_table else None,
        "source": listed.source if listed is not None and from_table else None,
    }
