"""`/api/decisions`: the list behind the dashboard's filters, and one under another policy."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway import reports
from wye.gateway.decision_replay import replay_decision
from wye.gateway.decision_routes import unknown_decision
from wye.gateway.decision_search import PENDING, Filter, Page, search
from wye.gateway.errors import bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.parameters import moment, whole_number
from wye.gateway.surfaces import SURFACES
from wye.query.off_policy import OffPolicyError
from wye.query.policy import PolicyError

_STATUSES = ("ok", "error", "cancelled", PENDING)
_LONGEST = 200


async def decisions(request: Request) -> Response:
    """A page of decisions, newest first, as the parameters filter them."""
    gateway: Gateway = request.app.state.gateway
    limit = whole_number(request, "limit", default=50, most=1000)
    wanted, before = _filter(request), request.query_params.get("before")

    def read() -> Page:
        gateway.store.flush()
        return search(gateway.store.engine, wanted, limit, before)

    page = await asyncio.to_thread(read)
    return JSONResponse({"data": page.data, "next": page.next, "reached": page.reached})


async def replay(request: Request) -> Response:
    """What a configured policy would have chosen for a decision, on what was known then."""
    gateway: Gateway = request.app.state.gateway
    wanted = request.path_params["id"]
    policies = gateway.service.rehearsal().policies
    name = request.query_params.get("policy", "")
    if name not in policies:
        raise bad_request(
            f"there is no policy {name[:80]!r}; configured are {', '.join(policies)}",
            param="policy",
            code="policy_not_found",
        )

    def read() -> dict[str, object] | None:
        gateway.store.flush()
        found = reports.decision(gateway.store.engine, wanted)
        return None if found is None else replay_decision(found, policies[name])

    try:
        told = await asyncio.to_thread(read)
    except (OffPolicyError, PolicyError) as error:
        raise bad_request(f"it cannot be replayed: {error}", code="no_replay") from error
    if told is None:
        raise unknown_decision(wanted)
    return JSONResponse({"decision": wanted, "policy_name": name, **told})


def _filter(request: Request) -> Filter:
    given = {
        name: _text(request, name)
        for name in ("target", "policy", "key", "session", "status", "surface", "text")
    }
    for name, known in (("status", _STATUSES), ("surface", tuple(SURFACES))):
        if given[name] is not None and given[name] not in known:
            raise bad_request(
                f"{name} is {given[name]!r}; expected one of {', '.join(known)}", param=name
            )
    return Filter(since=moment(request, "since"), until=moment(request, "until"), **given)


def _text(request: Request, name: str) -> str | None:
    given = request.query_params.get(name)
    if given is not None and len(given) > _LONGEST:
        raise bad_request(
            f"{name} has {len(given)} characters; expected at most {_LONGEST}", param=name
        )
    return given or None
