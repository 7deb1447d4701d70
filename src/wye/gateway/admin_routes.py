"""`/api/keys`: virtual keys made, listed, changed and revoked, as `wye keys` does it.

Everything here changes what others may do, so it asks more of a request than a figure does: the
gateway listens on loopback or has an access key (which the guard has checked by then), and the body
is JSON, which a page from elsewhere cannot send (`wye.gateway.own_page`). Each change is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.dialects import STORE_ERRORS, reason
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.money.key_view import as_dict, check_names, limits_from, spent_of
from wye.gateway.money.keys import Key, KeyBook, KeysError, Limits
from wye.gateway.openai_api import parse_json, read_body
from wye.gateway.own_page import media_type

T = TypeVar("T")
# Warnings reach the log even where nobody has set logging up.
audit = logging.getLogger("wye.gateway.audit")


async def keys(request: Request) -> Response:
    """Every key with its limits and what it has spent, revoked ones too; no secret."""
    gateway: Gateway = request.app.state.gateway
    book = gateway.ring.book

    def read() -> list[dict[str, Any]]:
        balances = book.balances()
        return [{**as_dict(key), "spent": spent_of(balances[key.id])} for key in book.list()]

    found = await _in_store(read)
    required = await gateway.ring.required()
    return JSONResponse({"keys": found, "required": required, "closed": closed(gateway)})


async def add_key(request: Request) -> Response:
    """Make a key: `name` and limits; the answer alone holds the secret."""
    gateway, body = await _order(request)
    name = body.pop("name", None)
    if not isinstance(name, str):
        raise bad_request("name is missing; send what the key is for", param="name")

    def make(book: KeyBook) -> tuple[Key, str]:
        return book.add(name, Limits(**_checked(gateway, body)))

    key, secret = await _changed(gateway, make)
    _note(request, "made", key)
    return JSONResponse({"key": as_dict(key), "secret": secret}, 201, headers=_UNSTORED)


async def change_key(request: Request) -> Response:
    """Set some limits of a key; null removes one, the others stay."""
    gateway, body = await _order(request)
    if not body:
        raise bad_request("nothing to change; send at least one limit")
    key_id = request.path_params["id"]

    def change(book: KeyBook) -> Key:
        return book.change(book.named(key_id).name, _checked(gateway, body))

    key = await _changed(gateway, change)
    _note(request, f"changed ({', '.join(f'{n}={v!r}' for n, v in sorted(body.items()))})", key)
    return JSONResponse({"key": as_dict(key)})


async def revoke_key(request: Request) -> Response:
    """Refuse a key from now on, for good."""
    gateway, body = await _order(request)
    if body:
        raise bad_request("revoking takes no fields; send {}")
    key_id = request.path_params["id"]
    key = await _changed(gateway, lambda book: book.revoke(book.named(key_id).name))
    _note(request, "revoked", key)
    return JSONResponse({"key": as_dict(key)})


def check_admin(request: Request) -> None:
    """Whether a request may change how the gateway works.

    Raises:
        ApiError: 403 where the gateway is open to everybody; 415 where the body is not declared as
            JSON.
    """
    gateway: Gateway = request.app.state.gateway
    if why := closed(gateway):
        raise ApiError(403, why, type="permission_error", code="admin_closed")
    kind = media_type(request.headers)
    if kind != "application/json":
        raise ApiError(
            415,
            f"the content type is {kind[:80]!r}; expected application/json",
            code="unsupported_media_type",
        )


def closed(gateway: Gateway) -> str | None:
    """Why nobody may change anything; None where somebody may."""
    server = gateway.config.server
    if server.loopback or server.access_key:
        return None
    return (
        "this gateway is open to its network without an access key, so keys and experiments are "
        "changed with the command wye alone; set server.access_key_env in wye.toml to change them "
        "here"
    )


_UNSTORED = {"cache-control": "no-store"}


async def _order(request: Request) -> tuple[Gateway, dict[str, Any]]:
    check_admin(request)
    gateway: Gateway = request.app.state.gateway
    return gateway, parse_json(await read_body(request, gateway.body_limit))


def _checked(gateway: Gateway, body: dict[str, Any]) -> dict[str, Any]:
    limits = limits_from(body)
    check_names(limits, [t.name for t in gateway.config.targets], gateway.service.policies)
    return limits


async def _changed(gateway: Gateway, change: Callable[[KeyBook], T]) -> T:
    try:
        return await _in_store(lambda: change(gateway.ring.book))
    except KeysError as error:
        raise bad_request(str(error), code="key_refused") from error


async def _in_store(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except STORE_ERRORS as error:
        raise ApiError(
            503,
            f"the store cannot be used: {reason(error)}",
            type="server_error",
            code="keys_unavailable",
            headers={"retry-after": "5"},
        ) from error


def _note(request: Request, done: str, key: Key) -> None:
    client = request.client.host if request.client else "unknown"
    audit.warning("key %r (%s...) %s from %s", key.name, key.prefix, done, client)
