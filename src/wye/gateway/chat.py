"""`POST /v1/chat/completions` and `GET /v1/models`: from the request to the response.

`model: "wye"` routes with the default policy, `"wye/<policy>"` with another, a target's own name
goes straight to it.
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.dispatch import Exchange
from wye.gateway.errors import ApiError
from wye.gateway.gateway import Gateway
from wye.gateway.openai_api import parse_chat, parse_json, read_body
from wye.gateway.streaming import ClientGoneError, EventStream, unless_gone

ROUTED = "wye"
DECISION_HEADER = "x-wye-decision"
TARGET_HEADER = "x-wye-target"
_CLIENT_CLOSED = 499


async def chat_completions(request: Request) -> Response:
    """Answer a chat request by the target that the policy chooses."""
    gateway: Gateway = request.app.state.gateway
    chat = parse_chat(parse_json(await read_body(request, gateway.body_limit)))
    policy, target = _destination(chat.model, gateway)
    exchange = await gateway.dispatcher.begin(chat, policy=policy, target=target)
    try:
        if chat.stream:
            answer = await unless_gone(request.receive, gateway.dispatcher.stream(exchange))
            return EventStream(answer, keep_usage=chat.wants_usage, headers=_headers(exchange))
        body = await unless_gone(request.receive, gateway.dispatcher.complete(exchange))
    except ClientGoneError:
        return Response(status_code=_CLIENT_CLOSED)
    except ApiError as error:
        error.headers |= _headers(exchange)
        raise
    # Plain ASCII: an upstream may cut a character in two, and half a one has no UTF-8.
    return Response(json.dumps(body), media_type="application/json", headers=_headers(exchange))


async def models(request: Request) -> Response:
    """What `model` may be: wye, its policies, and every target."""
    return JSONResponse({"object": "list", "data": _models(request.app.state.gateway)})


async def model(request: Request) -> Response:
    """One of `models`."""
    gateway: Gateway = request.app.state.gateway
    wanted = request.path_params["id"]
    for found in _models(gateway):
        if found["id"] == wanted:
            return JSONResponse(found)
    raise _unknown_model(wanted, gateway)


def _models(gateway: Gateway) -> list[dict[str, object]]:
    owned = dict.fromkeys(_routed_names(gateway), "wye")
    owned |= {target.name: target.kind for target in gateway.config.targets}
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": owner}
        for name, owner in owned.items()
    ]


def _destination(model: str, gateway: Gateway) -> tuple[str | None, str | None]:
    """The policy or the target that `model` asks for; the other is None."""
    if model == ROUTED:
        return gateway.config.first_policy, None
    if model in gateway.service.by_name:
        return None, model
    prefix, _, policy = model.partition("/")
    if prefix == ROUTED and policy in gateway.service.policies:
        return policy, None
    raise _unknown_model(model, gateway)


def _unknown_model(model: str, gateway: Gateway) -> ApiError:
    known = [*_routed_names(gateway), *gateway.service.by_name]
    return ApiError(
        404,
        f"there is no model {model!r}; known are {', '.join(known)}",
        code="model_not_found",
        param="model",
    )


def _routed_names(gateway: Gateway) -> list[str]:
    return [ROUTED, *(f"{ROUTED}/{name}" for name in gateway.service.policies)]


def _headers(exchange: Exchange) -> dict[str, str]:
    headers = {DECISION_HEADER: exchange.decision_id}
    if exchange.target is not None:
        headers[TARGET_HEADER] = exchange.target
    return headers
