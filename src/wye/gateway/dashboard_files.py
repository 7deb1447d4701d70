"""The dashboard's files: served from the package, nothing from elsewhere.

The content security policy lets the page load and call its own origin only, so that a prompt shown
on it can neither run as a script nor send anything out.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from wye.gateway.errors import ApiError

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
}


async def dashboard_file(request: Request) -> Response:
    """A file of the dashboard, `index.html` for `/`; browsers keep it and ask if it changed."""
    name = request.path_params.get("name") or "index.html"
    found = resources.files("wye.gateway") / "dashboard" / name
    kind = _TYPES.get(name[name.rfind(".") :])
    if "/" in name or "\\" in name or name.startswith(".") or kind is None or not found.is_file():
        raise ApiError(404, f"there is no page /{name}", code="not_found")
    content = found.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**SECURITY_HEADERS, "etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
