"""`/v1/decisions` and `/v1/feedback`: why a request went where it went, and how good it was."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway import reports
from wye.gateway.decision_search import latest
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.guard import key_of
from wye.gateway.openai_api import parse_json, read_body
from wye.gateway.parameters import whole_number
from wye.gateway.records import FeedbackRecord

_MOST = 1000
_LOOK_SECONDS = 0.05
SOURCES = ("person", "judge", "outcome")


async def decision(request: Request) -> Response:
    """Everything about one decision, as figures and in words."""
    return JSONResponse(await _known(request, request.path_params["id"]))


async def decisions(request: Request) -> Response:
    """The latest decisions, newest first, those before the decision `before` where it is given.

    Who comes with a virtual key sees its decisions alone.
    """
    gateway: Gateway = request.app.state.gateway
    limit = whole_number(request, "limit", default=50, most=_MOST)
    before, owner = request.query_params.get("before"), _owner(request)

    def read() -> list[dict[str, object]]:
        gateway.store.flush()
        return latest(gateway.store.engine, limit, before, owner)

    return JSONResponse({"object": "list", "data": await asyncio.to_thread(read)})


async def feedback(request: Request) -> Response:
    """Take a judgement of an answer: decision id, quality from 0 to 1; comment, source if given."""
    gateway: Gateway = request.app.state.gateway
    body = parse_json(await read_body(request, gateway.body_limit))
    wanted, quality, comment = body.get("decision"), body.get("quality"), body.get("comment")
    if not isinstance(wanted, str):
        raise bad_request("decision is missing; send the id from x-wye-decision", param="decision")
    if not isinstance(quality, int | float) or isinstance(quality, bool) or not 0 <= quality <= 1:
        raise bad_request(
            f"quality is {quality!r:.60}; expected a number from 0 (useless) to 1 (right)",
            param="quality",
        )
    if not isinstance(comment, str | None):
        raise bad_request("comment is no string; send text or leave it out", param="comment")
    source = body.get("source", "person")
    if source not in SOURCES:
        raise bad_request(
            f"source is {source!r:.60}; expected {', '.join(SOURCES)}", param="source"
        )
    unknown = sorted(set(body) - {"decision", "quality", "comment", "source"})
    if unknown:
        raise bad_request(
            f"unknown field {unknown[0]!r}; known are decision, quality, comment, source",
            param=unknown[0],
        )
    await _known(request, wanted)
    gateway.store.add(FeedbackRecord(wanted, time.time(), float(quality), comment, source))
    return JSONResponse({"object": "feedback", "decision": wanted, "quality": float(quality)})


async def _known(request: Request, wanted: str) -> dict[str, object]:
    """One decision, also where another worker made it and writes it in a moment."""
    gateway: Gateway = request.app.state.gateway
    patience = time.monotonic() + request.app.state.written_within
    while True:
        found = await asyncio.to_thread(_look_up, gateway, wanted, _owner(request))
        if found is not None:
            return found
        if time.monotonic() >= patience:
            raise unknown_decision(wanted)
        await asyncio.sleep(_LOOK_SECONDS)


def _look_up(gateway: Gateway, wanted: str, owner: str | None) -> dict[str, object] | None:
    """One decision, written first if it still waits; another key's is as if there were none."""
    gateway.store.flush()
    found = reports.decision(gateway.store.engine, wanted)
    return found if found is None or owner in (None, found["key_id"]) else None


def _owner(request: Request) -> str | None:
    """Whose decisions may be seen: those of one key, or None for all."""
    key = key_of(request)
    return None if key is None else key.id


def unknown_decision(wanted: str) -> ApiError:
    """A 404 that says where ids are found."""
    return ApiError(
        404,
        f"there is no decision {wanted[:80]!r}; its id is in the header x-wye-decision of the "
        "answer, and GET /v1/decisions lists the latest",
        code="decision_not_found",
    )
