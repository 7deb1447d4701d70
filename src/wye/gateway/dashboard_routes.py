"""`/api`: the figures that the dashboard draws, from the store and the running parts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.calibration import calibration as calibration_of
from wye.gateway.errors import bad_request
from wye.gateway.figures import Figures
from wye.gateway.frontier import frontier_of_log
from wye.gateway.gateway import Gateway
from wye.gateway.parameters import moment
from wye.gateway.surfaces import SURFACES
from wye.gateway.target_view import NOTHING, as_configured, as_it_stands
from wye.gateway.traffic_sums import TrafficSums


async def summary(request: Request) -> Response:
    """Sums over everything, or since a moment, and how each target does."""
    gateway: Gateway = request.app.state.gateway
    since = moment(request, "since")
    sums: TrafficSums = request.app.state.sums
    figures: Figures = request.app.state.figures()
    return JSONResponse(await asyncio.to_thread(_summary, gateway, figures, sums, since))


async def series(request: Request) -> Response:
    """Requests and spend over time, in buckets of so many seconds."""
    gateway: Gateway = request.app.state.gateway
    sums: TrafficSums = request.app.state.sums
    since = moment(request, "since")
    given = request.query_params.get("bucket", "60")
    try:
        bucket = float(given)
    except ValueError:
        bucket = math.nan
    if not 1 <= bucket <= 7 * 86400:
        raise bad_request(f"bucket is {given[:40]!r}; expected 1 to 604800 seconds", param="bucket")

    def read() -> list[dict[str, Any]]:
        gateway.store.flush()
        return sums.series(bucket, since)

    return JSONResponse(await asyncio.to_thread(read))


async def targets(request: Request) -> Response:
    """Every target: what it is, how it and its deployments stand, what it came to."""
    gateway: Gateway = request.app.state.gateway
    sums: TrafficSums = request.app.state.sums
    figures: Figures = request.app.state.figures()
    since = moment(request, "since")

    def read() -> dict[str, Any]:
        gateway.store.flush()
        served = sums.by_target(since)
        return {
            "targets": [
                {**as_configured(target), **as_it_stands(figures.targets[target.name]),
                 **NOTHING, **served.get(target.name, {})}
                for target in gateway.config.targets
            ]
        }  # fmt: skip

    return JSONResponse(await asyncio.to_thread(read))


async def names(request: Request) -> Response:
    """What decisions can be filtered by, and asked for."""
    gateway: Gateway = request.app.state.gateway
    found = await asyncio.to_thread(gateway.ring.book.list)
    return JSONResponse(
        {
            "targets": list(gateway.service.by_name),
            "policies": [*gateway.service.policies],
            "default_policy": gateway.service.first_policy,
            "keys": [{"id": key.id, "name": key.name} for key in found],
            "surfaces": list(SURFACES),
            "key_needed": await gateway.ring.required() and not gateway.config.server.access_key,
        }
    )


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


def _summary(
    gateway: Gateway, figures: Figures, sums: TrafficSums, since: float | None
) -> dict[str, Any]:
    gateway.store.flush()
    totals, served = sums.summary(since)
    targets = [
        {
            "name": target.name,
            "kind": target.kind,
            **NOTHING,
            **served.get(target.name, {}),
            "state": figures.targets[target.name].state.value,
            "price_in": target.prices.input if target.prices else target.price_in_per_mtok,
            "price_out": target.prices.output if target.prices else target.price_out_per_mtok,
            "description": target.description,
        }
        for target in gateway.config.targets
    ]
    return {
        **totals,
        "baseline": gateway.service.baseline(),
        "targets": targets,
        "policies": list(gateway.service.policies),
        "default_policy": gateway.service.first_policy,
        "store": {"ok": figures.store.ok, "lost": figures.store.lost},
    }
