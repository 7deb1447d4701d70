"""`/api/rollback`: have the policy version decide that decided before, as `wye rollback` does."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.admin_routes import audit, check_admin
from wye.gateway.dialects import STORE_ERRORS, reason
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.learning.versions import VersionBook, VersionsError
from wye.gateway.openai_api import parse_json, read_body

_LONGEST = 500


async def rollback(request: Request) -> Response:
    """Roll back, here and at every gateway of the store; `note` says why."""
    check_admin(request)
    gateway: Gateway = request.app.state.gateway
    body = parse_json(await read_body(request, gateway.body_limit))
    note = body.pop("note", "from the dashboard")
    if body or not isinstance(note, str) or len(note) > _LONGEST:
        raise bad_request(f"expected {{}}, or a note of at most {_LONGEST} characters")
    try:
        version = await asyncio.to_thread(VersionBook(gateway.store.engine).rollback, note)
    except VersionsError as error:
        raise bad_request(str(error), code="no_rollback") from error
    except STORE_ERRORS as error:
        raise ApiError(
            503, f"the store cannot be used: {reason(error)}", type="server_error"
        ) from error
    client = request.client.host if request.client else "unknown"
    audit.warning("policies rolled back to %s from %s", version or "wye.toml", client)
    return JSONResponse({"version": version})
