"""`/api/experiments`, `/api/rollback`: tried and undone, as `wye experiment`, `wye rollback` do it.

They change what decides, so they ask of a request what `wye.gateway.admin_routes` asks. What they
refuse is refused by `wye.gateway.learning.conduct`, the same as on the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.admin_routes import audit, check_admin
from wye.gateway.dialects import STORE_ERRORS, reason
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.learning.conduct import roll_back, start_experiment, stop_experiment
from wye.gateway.learning.experiments import ExperimentBook, ExperimentError, Plan
from wye.gateway.learning.learning_report import experiment_report
from wye.gateway.learning.versions import VersionsError
from wye.gateway.openai_api import parse_json, read_body

T = TypeVar("T")
_LONGEST_NOTE = 500
_NEEDED = ("name", "kind", "version")
_PLANNED = tuple(field.name for field in fields(Plan))
_STARTS = (*_NEEDED, "share", *_PLANNED)


async def start(request: Request) -> Response:
    """Begin an experiment at every gateway of the store: `name`, `kind`, `version`, and a plan."""
    gateway, body = await _order(request, _STARTS)
    for name in _NEEDED:
        if not isinstance(body.get(name), str):
            raise bad_request(
                f"{name} is {body.get(name)!r:.80}; expected a text; an experiment needs "
                f"{', '.join(_NEEDED)}",
                param=name,
            )
    # A null is as good as nothing, so that a form can send what is empty.
    given = {name: body[name] for name in _PLANNED if body.get(name) is not None}

    def begin() -> dict[str, Any]:
        engine = gateway.store.engine
        wanted = (body[name] for name in _NEEDED)
        begun = start_experiment(engine, *wanted, share=body.get("share"), plan=Plan(**given))
        return experiment_report(engine, begun)

    told = await _changed(gateway, begin, "experiment_refused")
    _note(request, f"experiment {told['name']!r} ({told['kind']}, {told['version']}) begun")
    return JSONResponse(told, 201)


async def stop(request: Request) -> Response:
    """End an experiment; `promote` has its candidate decide everything, `note` says why."""
    gateway, body = await _order(request, ("promote", "note"))
    promote, note = body.get("promote", False), _note_of(body, "from the API")
    if not isinstance(promote, bool):
        raise bad_request(f"promote is {promote!r:.80}; expected true or false", param="promote")
    engine, experiment = gateway.store.engine, request.path_params["id"]
    try:
        found = await _in_store(lambda: ExperimentBook(engine).by_id(experiment))
    except ExperimentError as error:
        raise ApiError(404, str(error), code="experiment_not_found") from error

    def end() -> dict[str, Any]:
        # What ends it is judged by all that was decided until then.
        gateway.store.flush()
        ended = stop_experiment(engine, found, promote=promote, reason=note)
        return experiment_report(engine, ended)

    told = await _changed(gateway, end, "experiment_refused")
    _note(request, f"experiment {told['name']!r} {'promoted' if promote else 'ended'}")
    return JSONResponse(told)


async def rollback(request: Request) -> Response:
    """Undo the last change, here and at every gateway of the store; `note` says why."""
    gateway, body = await _order(request, ("note",))
    note = _note_of(body, "from the dashboard")
    engine = gateway.store.engine

    def undo() -> dict[str, Any]:
        gateway.store.flush()
        undone = roll_back(engine, note)
        return {"version": undone.version, "ended": [one.name for one in undone.ended]}

    told = await _changed(gateway, undo, "no_rollback")
    what = f"; ended {', '.join(map(repr, told['ended']))}" if told["ended"] else ""
    _note(request, f"policies rolled back to {told['version'] or 'wye.toml'}{what}")
    return JSONResponse(told)


async def _order(request: Request, known: tuple[str, ...]) -> tuple[Gateway, dict[str, Any]]:
    check_admin(request)
    gateway: Gateway = request.app.state.gateway
    body = parse_json(await read_body(request, gateway.body_limit))
    for name in body:
        if name not in known:
            raise bad_request(
                f"unknown field {name[:80]!r}; expected {', '.join(known)}", param=name[:80]
            )
    return gateway, body


def _note_of(body: dict[str, Any], otherwise: str) -> str:
    note = body.get("note", otherwise)
    if not isinstance(note, str) or len(note) > _LONGEST_NOTE:
        raise bad_request(
            f"note is {note!r:.80}; expected a text of at most {_LONGEST_NOTE} characters",
            param="note",
        )
    return note or otherwise


async def _changed(gateway: Gateway, change: Callable[[], T], code: str) -> T:
    try:
        return await _in_store(change)
    except (ExperimentError, VersionsError) as error:
        raise bad_request(str(error), code=code) from error
    finally:
        gateway.keeper.look()


async def _in_store(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except STORE_ERRORS as error:
        raise ApiError(
            503, f"the store cannot be used: {reason(error)}", type="server_error"
        ) from error


def _note(request: Request, done: str) -> None:
    client = request.client.host if request.client else "unknown"
    audit.warning("%s from %s", done, client)
