"""`/api/alarms`: what the watch has found, and that somebody has seen it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.openai_api import parse_json, read_body
from wye.gateway.parameters import whole_number
from wye.gateway.watch import alarm_book

_MOST = 1000
_LONGEST = 1000


async def alarms(request: Request) -> Response:
    """The latest alarms, newest first, how many are open, and how each monitor stands."""
    gateway: Gateway = request.app.state.gateway
    limit = whole_number(request, "limit", default=100, most=_MOST)
    only = request.query_params.get("open", "false")
    if only not in ("true", "false"):
        raise bad_request(f"open is {only[:40]!r}; expected true or false", param="open")

    def read() -> dict[str, Any]:
        gateway.store.flush()
        engine = gateway.store.engine
        counts = alarm_book.count_open(engine)
        return {
            "object": "list",
            "open": sum(counts.values()),
            "open_by_kind": counts,
            "data": alarm_book.listed(engine, limit=limit, open_only=only == "true"),
            "monitors": list(request.app.state.figures(monitors=True).monitors),
        }

    return JSONResponse(await asyncio.to_thread(read))


async def acknowledge(request: Request) -> Response:
    """Take note of an alarm; the body may say by whom, and a note."""
    gateway: Gateway = request.app.state.gateway
    raw = await read_body(request, gateway.body_limit)
    body = parse_json(raw) if raw else {}
    unknown = sorted(set(body) - {"by", "note"})
    if unknown:
        raise bad_request(f"unknown field {unknown[0]!r}; known are by, note", param=unknown[0])
    for name in ("by", "note"):
        value = body.get(name)
        if not isinstance(value, str | None) or len(value or "") > _LONGEST:
            raise bad_request(
                f"{name} is no text of at most {_LONGEST} characters; send text or leave it out",
                param=name,
            )
    wanted = request.path_params["id"]

    def write() -> dict[str, Any]:
        gateway.store.flush()
        return alarm_book.acknowledge(
            gateway.store.engine, wanted, by=body.get("by"), note=body.get("note")
        )

    try:
        return JSONResponse(await asyncio.to_thread(write))
    except alarm_book.AlarmError as error:
        raise ApiError(404, str(error), code="alarm_not_found") from None
