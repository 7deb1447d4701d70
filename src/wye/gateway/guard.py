"""Who may talk to the gateway: ASGI middleware in front of every route.

On loopback the danger is the user's own browser: a page from elsewhere may send requests to
127.0.0.1, or point its own name there (DNS rebinding). So the Host must be a loopback name, and a
request that a browser marks as coming from another origin is refused. With an access key, every
request but `/healthz` must carry it, as a bearer token or as the password of HTTP basic (browsers).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wye.gateway.config import Server
from wye.gateway.errors import ApiError

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_OPEN_PATHS = {"/healthz"}


class Guard:
    """Refuses foreign hosts and origins on loopback, and requests without the access key."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._loopback = server.loopback
        self._key = server.access_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            response = JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)
            await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._loopback and _hostname(host) not in _LOOPBACK_NAMES:
            return ApiError(
                421,
                f"this gateway serves this machine only and was asked for as {host!r}; use "
                "http://127.0.0.1, or set server.host and server.access_key_env in wye.toml",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return ApiError(
                403,
                f"a page from {origin} may not use this gateway; only its own dashboard may",
                type="permission_error",
                code="foreign_origin",
            )
        if self._key and scope["path"] not in _OPEN_PATHS and not self._admits(headers):
            return ApiError(
                401,
                "the access key is missing or wrong; send it as Authorization: Bearer KEY",
                type="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": 'Basic realm="wye", charset="UTF-8"'},
            )
        return None

    def _admits(self, headers: Headers) -> bool:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        # Header bytes reach us as Latin-1; the key itself is UTF-8.
        given = text.strip().encode("latin-1")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, str(self._key).encode())


def _hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
