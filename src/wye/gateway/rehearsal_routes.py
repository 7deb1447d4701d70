"""`/api/choose`: the decision that a chat request would get at this moment, with no trace of it.

Nothing is sent, set aside, counted or stored, and a policy that draws or keeps account of its
choices does so on a copy. So the choice that is made a moment later may differ: where chance is
involved, the probabilities say how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.chat import destination, session_of
from wye.gateway.errors import ApiError
from wye.gateway.gateway import Gateway
from wye.gateway.guard import presented
from wye.gateway.money.keys import Key
from wye.gateway.openai_api import parse_chat, parse_json, read_body
from wye.gateway.router_service import Routed


async def choose(request: Request) -> Response:
    """What would be decided on a chat request, for the virtual key that comes with it, if any."""
    gateway: Gateway = request.app.state.gateway
    chat = parse_chat(parse_json(await read_body(request, gateway.body_limit)))
    key = await _key(request, gateway)
    policy, target = destination(chat.model, gateway, key)
    grant = gateway.admission.sight(key, session_of(request), chat)
    routed = await gateway.dispatcher.decider.rehearse(chat, policy, target, grant)
    return JSONResponse(_told(routed, gateway.service.policies))


def _told(routed: Routed, policies: Mapping[str, object]) -> dict[str, object]:
    record = asdict(routed.record)
    # It has no id to look up, and nobody's text is given back.
    del record["id"], record["text"]
    stateful = bool(getattr(policies.get(routed.record.policy_name), "stateful", False))
    return {**record, "stateful": stateful}


async def _key(request: Request, gateway: Gateway) -> Key | None:
    """The virtual key that was given; None where it is the access key, or none at all."""
    given = presented(request.headers)
    server = gateway.config.server
    if not given or (server.access_key and given == server.access_key.encode()):
        return None
    key = await gateway.ring.find(given.decode("utf-8", "surrogateescape"))
    if key is None:
        raise ApiError(
            400,
            "there is no such virtual key; the dashboard's own requests need none",
            code="invalid_api_key",
        )
    return key
