"""`/api`: the figures that the dashboard draws, from the store and the running parts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway import reports
from wye.gateway.calibration import calibration as calibration_of
from wye.gateway.decision_routes import decision, whole_number
from wye.gateway.errors import bad_request
from wye.gateway.frontier import frontier_of_log
from wye.gateway.gateway import Gateway

__all__ = ["calibration", "decision", "decisions", "frontier", "playground", "series", "summary"]


async def summary(request: Request) -> Response:
    """Sums over everything, and how each target does."""
    gateway: Gateway = request.app.state.gateway
    return JSONResponse(await asyncio.to_thread(_summary, gateway))


async def decisions(request: Request) -> Response:
    """The latest decisions, newest first."""
    gateway: Gateway = request.app.state.gateway
    limit = whole_number(request, "limit", default=50, most=1000)
    before = request.query_params.get("before")

    def read() -> list[dict[str, Any]]:
        gateway.store.flush()
        return reports.latest(gateway.store.engine, limit, before)

    return JSONResponse(await asyncio.to_thread(read))


async def series(request: Request) -> Response:
    """Requests and spend over time, in buckets of so many seconds."""
    gateway: Gateway = request.app.state.gateway
    given = request.query_params.get("bucket", "60")
    try:
        bucket = float(given)
    except ValueError:
        bucket = math.nan
    if not 1 <= bucket <= 7 * 86400:
        raise bad_request(f"bucket is {given[:40]!r}; expected 1 to 604800 seconds", param="bucket")

    def read() -> list[dict[str, Any]]:
        gateway.store.flush()
        return reports.series(gateway.store.engine, bucket)

    return JSONResponse(await asyncio.to_thread(read))


async def frontier(request: Request) -> Response:
    """Cost against quality: as the router's data measured it, else as the log tells."""
    gateway: Gateway = request.app.state.gateway
    if gateway.frontier is not None:
        return JSONResponse(dict(gateway.frontier))

    def read() -> dict[str, Any]:
        gateway.store.flush()
        return frontier_of_log(gateway.store.engine)

    return JSONResponse(await asyncio.to_thread(read))


async def calibration(request: Request) -> Response:
    """Whether expected quality is still what feedback gives."""
    gateway: Gateway = request.app.state.gateway

    def read() -> dict[str, Any]:
        gateway.store.flush()
        return calibration_of(gateway.store.engine)

    return JSONResponse(await asyncio.to_thread(read))


async def playground(request: Request) -> Response:
    """Prompts on which the choice of target matters."""
    gateway: Gateway = request.app.state.gateway
    return JSONResponse({"prompts": [dict(p) for p in gateway.playground]})


def _summary(gateway: Gateway) -> dict[str, Any]:
    gateway.store.flush()
    engine, health = gateway.store.engine, gateway.store.health()
    served = reports.by_target(engine)
    nothing = {"requests": 0, "spend_usd": None, "quality": None, "share": 0.0}
    targets = [
        {
            "name": target.name,
            "kind": target.kind,
            "latency_ms_p50": None,
            **nothing,
            **served.get(target.name, {}),
            "state": gateway.breakers[target.name].state.value,
            "price_in": target.prices.input if target.prices else target.price_in_per_mtok,
            "price_out": target.prices.output if target.prices else target.price_out_per_mtok,
            "description": target.description,
        }
        for target in gateway.config.targets
    ]
    return {
        **reports.totals(engine),
        "baseline": gateway.service.baseline(),
        "targets": targets,
        "policies": list(gateway.service.policies),
        "default_policy": gateway.config.first_policy,
        "store": {"ok": health.ok, "lost": health.lost},
    }
