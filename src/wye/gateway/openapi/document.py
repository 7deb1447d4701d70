"""`GET /openapi.json`: every route of the gateway, as data.

Source: OpenAPI 3.1.1.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import wye
from wye.gateway.openapi import answering, figures
from wye.gateway.openapi.parts import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    in_path,
    mapped,
    maybe,
    operation,
    record,
)  # fmt: skip

PATH = "/openapi.json"
_ERROR = record(error=record(message=TEXT, type=TEXT, param=maybe(TEXT), code=maybe(TEXT)))
_ANTHROPIC_ERROR = record(type={"const": "error"}, error=record(type=TEXT, message=TEXT))
_FILES = (
    "text/html", "text/javascript", "text/css", "image/svg+xml", "image/png", "image/x-icon",
    "font/woff2", "application/json",
)  # fmt: skip
_HEALTH = record(
    status=TEXT, requests=record(running=COUNT, waiting=COUNT), targets=mapped(TEXT),
    store=record(ok=FLAG, lost=COUNT, pending=COUNT, error=maybe(TEXT)), ledger=OBJECT,
    policy=OBJECT,
)  # fmt: skip


def _health() -> dict[str, Any]:
    """The same answer whether targets can be asked or not."""
    found = operation("Whether requests can be served", _HEALTH, tag="operation")
    content = {"application/json": {"schema": _HEALTH}}
    found["responses"]["503"] = {"description": "no target can be asked", "content": content}
    found["responses"].pop("401")
    return {**found, "security": []}


_OWN: dict[str, dict[str, Any]] = {
    "/healthz": {"get": _health()},
    "/livez": {
        "get": {
            **operation("Whether the process answers at all", OBJECT, tag="operation"),
            "security": [],
        }
    },
    "/metrics": {
        "get": operation("Prometheus metrics", None, tag="operation", kinds=("text/plain",))
    },
    PATH: {"get": operation("This document", OBJECT, tag="operation")},
    "/": {"get": operation("The dashboard", None, tag="dashboard", kinds=("text/html",))},
    "/{name}": {
        "get": operation(
            "A file of the dashboard", OBJECT, tag="dashboard", kinds=_FILES,
            parameters=[in_path("name", "of the file")], refusals=(304, 404),
        )
    },
}  # fmt: skip


def document(*, keys: bool) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        keys: whether a key is always needed.
    """
    ways: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "wye",
            "version": wye.__version__,
            "description": "A gateway that routes each request to one of many models.",
        },
        "paths": {**answering.PATHS, **figures.PATHS, **_OWN},
        "components": {
            "schemas": {"Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": ways if keys else [*ways, {}],
    }


async def openapi(request: Request) -> Response:
    """The document, for the gateway as it is configured."""
    server = request.app.state.gateway.config.server
    return JSONResponse(document(keys=bool(server.access_key)))
