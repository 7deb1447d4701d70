"""Answers on every surface, and `GET /v1/models`: from the request to the response.

`model: "wye"` routes with the default policy, `"wye/<policy>"` with another, a target's own name
goes straight to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wye.gateway.answer_cache.cache import Keeping
from wye.gateway.answer_cache.serving import CACHE_HEADER, KeptStream, answer_again
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.exchange import Exchange
from wye.gateway.gateway import Gateway
from wye.gateway.guard import key_of
from wye.gateway.learning.outcome_checks import HEADER as EXPECTED_HEADER
from wye.gateway.learning.outcome_checks import Check, check_of
from wye.gateway.money.admission import Grant
from wye.gateway.money.keys import Key
from wye.gateway.openai_api import ChatRequest, parse_json, read_body
from wye.gateway.streaming import ClientGoneError, EventStream, unless_gone
from wye.gateway.surfaces import Surface, surface_at, surface_of
from wye.gateway.surfaces.received import text_of

ROUTED = "wye"
DECISION_HEADER = "x-wye-decision"
TARGET_HEADER = "x-wye-target"
SESSION_HEADER = "x-wye-session"
_CLIENT_CLOSED = 499
_SESSION_LENGTH = 200


class Answers:
    """`answer` of a surface, as an ASGI application."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await answer(self._surface, Request(scope, receive, send))
        await response(scope, receive, send)


class StraightToAnswers:
    """ASGI middleware: requests for an answer skip the router and what it wraps every route in.

    Args:
        answers: by path, each with what turns its errors into responses; other requests, and those
            by another method, are the router's.
    """

    def __init__(self, app: ASGIApp, answers: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST":
            app = self._answers.get(scope["path"], app)
        await app(scope, receive, send)


def refused(request: Request, error: ApiError) -> Response:
    """An error in the shape of the surface that was asked."""
    if DECISION_HEADER not in error.headers:
        gateway: Gateway = request.app.state.gateway
        gateway.metrics.rejected.labels(str(error.status)).inc()
    body = surface_at(request.url.path).error(error)
    return JSONResponse(body, error.status, headers=error.headers)


async def answer(surface: Surface, request: Request) -> Response:
    """Answer a request of a surface by the target that the policy chooses."""
    gateway: Gateway = request.app.state.gateway
    chat = surface.read(parse_json(await read_body(request, gateway.body_limit)), request.headers)
    key = key_of(request)
    policy, target = destination(chat.model, gateway, key)
    if target is None:
        _check_choice(chat, gateway, key)
    check = check_of(request.headers.get(EXPECTED_HEADER), gateway.config.checks)
    grant = await gateway.admission.admit(key, session_of(request), chat)
    ask = partial(_ask, gateway, request, chat, policy, target, grant, check)
    if gateway.answers is None:
        return await ask()
    wanted = f"policy {policy}" if target is None else f"target {target}"
    return await answer_again(gateway, gateway.answers, request, chat, grant, wanted, ask)


async def _ask(
    gateway: Gateway,
    request: Request,
    chat: ChatRequest,
    policy: str | None,
    target: str | None,
    grant: Grant,
    check: Check | None,
    keeping: Keeping | None = None,
    cache: str | None = None,
) -> Response:
    """Have a target answer; `cache` is what the header says of the cache, where there is one."""
    try:
        exchange = await gateway.dispatcher.begin(chat, policy=policy, target=target, grant=grant)
    except BaseException:
        # Nothing was decided, so that nobody else will let go of what the key was counted for.
        grant.settle(None, None, estimated=False)
        raise
    gateway.assessor.begin(exchange, check)
    try:
        if chat.stream:
            pieces = await unless_gone(request.receive, gateway.dispatcher.stream(exchange))
            kept = pieces if keeping is None else KeptStream(pieces, keeping)
            return EventStream(kept, headers=_headers(exchange, cache))
        body = await unless_gone(request.receive, gateway.dispatcher.complete(exchange))
    except ClientGoneError:
        return Response(status_code=_CLIENT_CLOSED)
    except ApiError as error:
        error.headers |= _headers(exchange, cache)
        raise
    except Exception:
        # A defect of wye; what was set aside for the request is let go all the same.
        exchange.finish("error", http_status=500, error="the gateway failed")
        raise
    content = text_of(body).encode()
    if keeping is not None:
        keeping.whole(exchange, content)
    headers = _headers(exchange, cache)
    return Response(content, media_type="application/json", headers=headers)


async def models(request: Request) -> Response:
    """What `model` may be: wye, its policies, and every target."""
    found = _models(request.app.state.gateway, key_of(request))
    return JSONResponse({"object": "list", "data": found})


async def model(request: Request) -> Response:
    """One of `models`."""
    gateway: Gateway = request.app.state.gateway
    wanted = request.path_params["id"]
    for found in _models(gateway, key_of(request)):
        if found["id"] == wanted:
            return JSONResponse(found)
    raise _unknown_model(wanted, gateway, key_of(request))


def _models(gateway: Gateway, key: Key | None) -> list[dict[str, object]]:
    owned = dict.fromkeys(_routed_names(gateway), "wye")
    owned |= {
        target.name: target.kind
        for target in gateway.config.targets
        if key is None or key.may_use(target.name)
    }
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": owner}
        for name, owner in owned.items()
    ]


def destination(model: str, gateway: Gateway, key: Key | None) -> tuple[str | None, str | None]:
    """The policy or the target that `model` asks for; the other is None."""
    if model == ROUTED:
        policy = key.limits.policy if key is not None else None
        if policy is not None and policy not in gateway.service.policies:
            raise bad_request(
                f"the policy of this key, {policy!r}, is not configured here; ask for one by name: "
                f"{', '.join(_routed_names(gateway)[1:])}",
                param="model",
                code="policy_not_found",
            )
        return policy or gateway.service.first_policy, None
    if model in gateway.service.by_name:
        if key is not None and not key.may_use(model):
            raise ApiError(
                403,
                f"the key {key.name!r} may not use {model}; it may use "
                f"{', '.join(key.limits.targets or ())}",
                type="permission_error",
                code="target_not_allowed",
                param="model",
            )
        return None, model
    prefix, _, policy = model.partition("/")
    if prefix == ROUTED and policy in gateway.service.policies:
        return policy, None
    raise _unknown_model(model, gateway, key)


def _check_choice(chat: ChatRequest, gateway: Gateway, key: Key | None) -> None:
    """Refuse a choice that the request's surface says would be wrong."""
    surface = surface_of(chat.body)
    open_targets = [
        target
        for target in gateway.config.targets
        if surface.name in target.surfaces and (key is None or key.may_use(target.name))
    ]
    why = surface.unroutable(chat, open_targets)
    if why is not None:
        raise bad_request(why, param="model", code="target_needed")


def session_of(request: Request) -> str | None:
    """The conversation that the client names, in Unicode where the header is UTF-8."""
    given = request.headers.get(SESSION_HEADER)
    if given is None:
        return None
    try:
        name = given.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        name = given
    if not 1 <= len(name) <= _SESSION_LENGTH:
        raise bad_request(
            f"{SESSION_HEADER} has {len(name)} characters; expected 1 to {_SESSION_LENGTH}",
            param=SESSION_HEADER,
        )
    return name


def _unknown_model(model: str, gateway: Gateway, key: Key | None) -> ApiError:
    mine = (name for name in gateway.service.by_name if key is None or key.may_use(name))
    known = [*_routed_names(gateway), *mine]
    return ApiError(
        404,
        f"there is no model {model[:80]!r}; known are {', '.join(known)}",
        code="model_not_found",
        param="model",
    )


def _routed_names(gateway: Gateway) -> list[str]:
    return [ROUTED, *(f"{ROUTED}/{name}" for name in gateway.service.policies)]


def _headers(exchange: Exchange, cache: str | None) -> dict[str, str]:
    headers = {DECISION_HEADER: exchange.decision_id}
    if cache is not None:
        headers[CACHE_HEADER] = cache
    if exchange.target is not None:
        headers[TARGET_HEADER] = exchange.target
    return headers
