"""Who may talk to the gateway: ASGI middleware in front of every route.

On loopback the danger is the user's own browser: a page from elsewhere may send requests to
127.0.0.1, or point its own name there (DNS rebinding). So the Host must be a loopback name, and a
request that a browser marks as coming from another origin is refused (`wye.gateway.own_page` for
changes, of which a browser may say so in other ways).

With an access key, every request but `/healthz` and `/livez` must carry it, as a bearer token or as
the password of HTTP basic (browsers). With virtual keys (`wye.gateway.money.keys`), `/v1` takes one
of them, or the access key, which is the administrator's and has no limits; everything else stays as
it is.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wye.gateway.config import Server
from wye.gateway.dialects import STORE_ERRORS, reason
from wye.gateway.errors import ApiError
from wye.gateway.money.key_ring import KeyRing
from wye.gateway.money.keys import Key
from wye.gateway.own_page import foreign_change
from wye.gateway.surfaces import surface_at

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_OPEN_PATHS = {"/healthz", "/livez"}


class Guard:
    """Refuses foreign hosts and origins on loopback, and requests without a key that is good."""

    def __init__(self, app: ASGIApp, server: Server, ring: KeyRing) -> None:
        self._app = app
        self._ring = ring
        self._loopback = server.loopback
        self._key = server.access_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        refusal = None
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = (
                self._foreign(headers)
                or foreign_change(scope["method"], scope["path"], headers)
                or await self._keyless(scope, headers)
            )
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            body = surface_at(scope["path"]).error(refusal)
            response = JSONResponse(body, refusal.status, headers=refusal.headers)
            await response(scope, receive, send)

    def _foreign(self, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if self._loopback and _hostname(host) not in _LOOPBACK_NAMES:
            return ApiError(
                421,
                f"this gateway serves this machine only and was asked for as {host!r}; use "
                "http://127.0.0.1, or set server.host and server.access_key_env in wye.toml",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host:
            return ApiError(
                403,
                f"a page from {origin} may not use this gateway; only its own dashboard may",
                type="permission_error",
                code="foreign_origin",
            )
        return None

    async def _keyless(self, scope: Scope, headers: Headers) -> ApiError | None:
        """Why the request's key will not do; a virtual key that does is noted in its state."""
        path: str = scope["path"]
        given = presented(headers)
        if path in _OPEN_PATHS:
            return None
        if self._key and hmac.compare_digest(given, self._key.encode()):
            return None
        if not path.startswith("/v1/"):
            return _unknown("the access key is missing or wrong") if self._key else None
        try:
            required = await self._ring.required(given)
            if not required and not self._key:
                return None
            if not given:
                return _unknown("this gateway needs a key")
            key = await self._ring.find(given.decode("utf-8", "surrogateescape"))
        except STORE_ERRORS as error:
            return ApiError(
                503,
                f"keys cannot be looked up: {reason(error)}",
                type="server_error",
                code="keys_unavailable",
                headers={"retry-after": "5"},
            )
        if key is None:
            return _unknown("the key is wrong")
        if refusal := key.refusal(time.time()):
            return _unknown(refusal)
        scope.setdefault("state", {})["key"] = key
        return None


def key_of(request: Request) -> Key | None:
    """The virtual key that a request came with; None for the administrator or without keys."""
    key: Key | None = getattr(request.state, "key", None)
    return key


def presented(headers: Headers) -> bytes:
    """The key in a request's headers; empty where there is none."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    # Header bytes reach us as Latin-1; the key itself is UTF-8.
    given = text.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    if scheme.lower() == "bearer":
        return given
    return headers.get("x-api-key", "").strip().encode("latin-1")


def _unknown(why: str) -> ApiError:
    return ApiError(
        401,
        f"{why}; send it as Authorization: Bearer KEY",
        type="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": 'Basic realm="wye", charset="UTF-8"'},
    )


def _netloc(origin: str) -> str:
    """Host and port of an Origin header; empty where it is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
