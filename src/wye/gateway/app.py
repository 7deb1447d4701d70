"""The gateway as an ASGI application: routes, errors, health, start and stop.

    request -> Guard -> route -> parse -> decide -> ask the target -> respond -> record

Routes: `chat.py`, `decision_routes.py`, `dashboard_routes.py`, `dashboard_files.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from wye.gateway import (
    admin_routes,
    chat,
    dashboard_routes,
    decision_routes,
    experiment_routes,
    rehearsal_routes,
    search_routes,
    token_count,
)
from wye.gateway.config import Config
from wye.gateway.dashboard_files import dashboard_file
from wye.gateway.dialects import STORE_ERRORS, details, is_stores_fault, reason
from wye.gateway.door import Door
from wye.gateway.errors import ApiError
from wye.gateway.figures import Figures, figures_of
from wye.gateway.gateway import Gateway, build
from wye.gateway.gauges import CONTENT_TYPE
from wye.gateway.guard import Guard
from wye.gateway.learning import learning_report
from wye.gateway.openapi import document
from wye.gateway.surfaces import SURFACES, surface_at
from wye.gateway.traffic_sums import TrafficSums
from wye.gateway.watch import alarm_routes
from wye.query.base import QueryRouter

if TYPE_CHECKING:
    from wye.gateway.workers.board import Board

logger = logging.getLogger("wye.gateway")
_ANSWERS = {surface.path: chat.Answers(surface) for surface in SURFACES.values()}
ROUTES = (
    *(Route(path, answers, methods=["POST"]) for path, answers in _ANSWERS.items()),
    Route(token_count.PATH, token_count.count_tokens, methods=["POST"]),
    Route("/v1/models", chat.models, methods=["GET"]),
    Route("/v1/models/{id:path}", chat.model, methods=["GET"]),
    Route("/v1/decisions", decision_routes.decisions, methods=["GET"]),
    Route("/v1/decisions/{id}", decision_routes.decision, methods=["GET"]),
    Route("/v1/feedback", decision_routes.feedback, methods=["POST"]),
    Route("/api/summary", dashboard_routes.summary, methods=["GET"]),
    Route("/api/names", dashboard_routes.names, methods=["GET"]),
    Route("/api/targets", dashboard_routes.targets, methods=["GET"]),
    Route("/api/decisions", search_routes.decisions, methods=["GET"]),
    Route("/api/decisions/{id}", decision_routes.decision, methods=["GET"]),
    Route("/api/decisions/{id}/replay", search_routes.replay, methods=["GET"]),
    Route("/api/choose", rehearsal_routes.choose, methods=["POST"]),
    Route("/api/keys", admin_routes.keys, methods=["GET"]),
    Route("/api/keys", admin_routes.add_key, methods=["POST"]),
    Route("/api/keys/{id}", admin_routes.change_key, methods=["PATCH"]),
    Route("/api/keys/{id}/revoke", admin_routes.revoke_key, methods=["POST"]),
    Route("/api/calibration", dashboard_routes.calibration, methods=["GET"]),
    Route("/api/frontier", dashboard_routes.frontier, methods=["GET"]),
    Route("/api/playground", dashboard_routes.playground, methods=["GET"]),
    Route("/api/series", dashboard_routes.series, methods=["GET"]),
    Route("/api/experiments", learning_report.experiments, methods=["GET"]),
    Route("/api/experiments", experiment_routes.start, methods=["POST"]),
    Route("/api/experiments/{id}/stop", experiment_routes.stop, methods=["POST"]),
    Route("/api/rollback", experiment_routes.rollback, methods=["POST"]),
    Route("/api/alarms", alarm_routes.alarms, methods=["GET"]),
    Route("/api/alarms/{id}/ack", alarm_routes.acknowledge, methods=["POST"]),
)


def create_app(
    config: Config,
    router: QueryRouter | None = None,
    *,
    frontier: Mapping[str, Any] | None = None,
    playground: tuple[Mapping[str, Any], ...] = (),
) -> Starlette:
    """The application for a configuration and a fitted router.

    Args:
        config: see `wye.gateway.config`.
        router: None to go by priors alone.
        frontier, playground: what the dashboard shows under those names.

    Raises:
        ConfigError: a kind of upstream or policy is unknown, or its parameters are wrong.
        StoreError: the store cannot be opened.
    """
    gateway = build(config, router, frontier=frontier, playground=playground)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            await gateway.start()
            yield
        finally:
            await gateway.close()

    handlers: dict[Any, ExceptionHandler] = {
        ApiError: _api_error,
        HTTPException: _http_error,
        **dict.fromkeys(STORE_ERRORS, _store_error),
    }
    answers = {path: ExceptionMiddleware(asked, handlers) for path, asked in _ANSWERS.items()}
    app = Starlette(
        routes=[
            *ROUTES,
            Route("/healthz", health, methods=["GET"]),
            Route("/livez", alive, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route(document.PATH, document.openapi, methods=["GET"]),
            Route("/", dashboard_file, methods=["GET"]),
            Route("/{name}", dashboard_file, methods=["GET"]),
        ],
        middleware=[
            *gateway.onlookers.middleware,
            Middleware(Guard, server=config.server, ring=gateway.ring),
            Middleware(Door, places=gateway.places, server=config.server, metrics=gateway.metrics),
            Middleware(chat.StraightToAnswers, answers=answers),
        ],
        exception_handlers={**handlers, Exception: _defect},
        lifespan=lifespan,
    )
    app.state.gateway = gateway
    app.state.sums = TrafficSums(gateway.store.engine)
    app.state.figures = partial(figures_of, gateway)
    app.state.workers = None
    # Seconds until what others have decided, and hold, is in the store.
    app.state.written_within = 0.0
    return app


async def health(request: Request) -> Response:
    """Whether requests can be served: 200 while any target can be asked, else 503.

    While the gateway stops it says 503 and "draining".
    A store that cannot be written is told, and does not make the gateway unhealthy: it serves on.
    """
    figures: Figures = request.app.state.figures()
    able = any(target.available for target in figures.targets.values())
    status = ("ok" if figures.store.ok else "degraded") if able else "unavailable"
    if figures.draining:
        able, status = False, "draining"
    health: dict[str, Any] = {
        "status": status,
        "requests": {"running": figures.running, "waiting": figures.waiting},
        "targets": {name: target.state.value for name, target in figures.targets.items()},
        "store": figures.store.model_dump(),
        "ledger": {"error": figures.ledger_error, "waiting": figures.ledger_waiting},
        "policy": figures.policy,
    }
    board: Board | None = request.app.state.workers
    if board is not None:
        health["workers"] = board.told()
    return JSONResponse(health, 200 if able else 503)


async def alive(request: Request) -> Response:
    """200 as long as the process answers at all, for who would start it again otherwise."""
    return JSONResponse({"status": "alive"})


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    gateway: Gateway = request.app.state.gateway
    figures: Figures = request.app.state.figures()
    body = await asyncio.to_thread(gateway.gauges.render, gateway, figures)
    return Response(body, headers={"content-type": CONTENT_TYPE})


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return chat.refused(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = surface_at(request.url.path).error(ApiError(error.status_code, message))
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _store_error(request: Request, error: Exception) -> Response:
    """What is only in the store cannot be told while that cannot be used."""
    if not is_stores_fault(error):
        raise error
    logger.debug("%s %s: %s", request.method, request.url.path, details(error))
    refused = ApiError(
        503,
        f"the store cannot be used: {reason(error)}",
        type="server_error",
        code="store_unavailable",
        headers={"retry-after": "5"},
    )
    return chat.refused(request, refused)


async def _defect(request: Request, _error: Exception) -> Response:
    """A defect of wye: Starlette logs its traceback, the client gets no inside of it."""
    error = ApiError(
        500, "the gateway failed; its log says why", type="server_error", code="internal_error"
    )
    return JSONResponse(surface_at(request.url.path).error(error), 500)
