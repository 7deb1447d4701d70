"""`GET /api/experiments`: versions, experiments and learners, as the dashboard shows them.

The answer, where `X?` is X or null, and times are seconds since 1970:

    {"present": {"version": str, "digest": str, "source": "wye.toml" or "store", "since": float?,
                 "error": str?},
     "versions": [{"id": str, "created": float, "note": str, "origin": "wye.toml" or "added",
                   "router": str?, "policies": {name: {"kind": str, ...}}, "default_policy": str,
                   "bytes": int, "state": "present", "previous", "trial" or "kept"}],
     "uses": [{"time": float, "version": str?, "reason": str}],
     "gateways": [{"gateway": str, "seen": float, "version": str, "digest": str, "error": str?}],
     "experiments": [{"id": str, "name": str, "kind": "shadow", "canary" or "ab",
                      "version": str, "control": str?, "share": float, "by": "session" or "key",
                      "state": "running", "stopped", "harmful", "better", "worse" or "promoted",
                      "started": float, "ended": float?, "reason": str?,
                      "alpha": float, "cost_weight": float,
                      "arms": {"control": ARM, "candidate": ARM},
                      "differences": [{"metric": "reward", "cost" or "errors", "estimate": float?,
                                       "low": float?, "high": float?, "p": float}],
                      "shadow": SHADOW?, "words": str}],
     "closed": str?,
     "learners": [{"name": str, "kind": str, "reader": str, "judged": int,
                   "targets": {name: int}}]}

    ARM     {"requests": int, "units": int, "judged": int, "reward": float?, "cost_usd": float?,
             "errors": float?}: means over units; `errors` is the share of units that failed
    SHADOW  {"decisions": int, "same": float?, "targets": {name: int}, "quality": float?,
             "cost_usd": float?}: `same` is the share that chose what was really chosen, `quality`
             and `cost_usd` what was expected of its choices

`closed` says why nothing can be changed over HTTP. Figures of experiments that run are those of the
last analysis (`analysis_seconds`). Newest first everywhere but in `differences` (candidate less
control; `p` is always valid: it may be read at any time, `wye.gateway.learning.analysis`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.admin_routes import closed
from wye.gateway.learning.analysis import analyse, shadow_summary
from wye.gateway.learning.experiments import RUNNING, Experiment, ExperimentBook
from wye.gateway.learning.versions import VersionBook

if TYPE_CHECKING:
    from wye.gateway.gateway import Gateway

_USES = 50


async def experiments(request: Request) -> Response:
    """See the module."""
    gateway: Gateway = request.app.state.gateway
    told = await asyncio.to_thread(_told, gateway)
    return JSONResponse({**told, "closed": closed(gateway)})


def versions_report(engine: sa.Engine) -> dict[str, Any]:
    """`versions`, `uses` and `gateways` of the module's JSON."""
    book = VersionBook(engine)
    wanted, before = book.wanted().version, book.before()
    tried = {one.version for one in ExperimentBook(engine).running()}
    gateways = book.gateways()
    present = {wanted} if wanted is not None else {one.version for one in gateways}
    previous = before[-1] if before else None

    def state(version: str) -> str:
        if version in present:
            return "present"
        if version in tried:
            return "trial"
        return "previous" if version == previous else "kept"

    return {
        "versions": [
            {
                "id": one.id,
                "created": one.created,
                "note": one.note,
                "origin": one.origin,
                "router": one.router,
                "policies": dict(one.policies),
                "default_policy": one.default_policy,
                "bytes": one.size,
                "state": state(one.id),
            }
            for one in book.all()
        ],
        "uses": [
            {"time": use.time, "version": use.version, "reason": use.reason or use.kind}
            for use in book.uses()[:_USES]
        ],
        "gateways": [dict(vars(one)) for one in gateways],
    }


def experiments_report(
    engine: sa.Engine, known: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """`experiments` of the module's JSON.

    Args:
        known: what an analysis found lately, by id; the others that run are analysed here.
    """
    found = ExperimentBook(engine).latest()
    return [experiment_report(engine, one, (known or {}).get(one.id)) for one in found]


def _told(gateway: Gateway) -> dict[str, Any]:
    gateway.store.flush()
    engine, keeper = gateway.store.engine, gateway.keeper
    told = versions_report(engine)
    uses = told["uses"]
    sets = [gateway.service.present, *(t.candidate for t in gateway.service.trials.running)]
    learners = {id(one): (name, one) for s in sets for name, one in s.learners.items()}
    return {
        "present": {**keeper.health(), "since": uses[0]["time"] if uses else None},
        **told,
        "experiments": experiments_report(engine, keeper.results),
        "learners": [
            {
                "name": name,
                "kind": one.name,
                "reader": one.reader.name,
                "judged": sum(one.judged.values()),
                "targets": one.judged,
            }
            for name, one in learners.values()
        ],
    }


def experiment_report(
    engine: sa.Engine, one: Experiment, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One of `experiments` of the module's JSON; `known` is what an analysis found lately."""
    result: Mapping[str, Any] = one.result or known or {}
    if one.kind == "shadow" and not result:
        result = {"shadow": shadow_summary(engine, one)}
    elif not result:
        result = analyse(engine, one).to_dict()
    told = {
        "id": one.id,
        "name": one.name,
        "kind": one.kind,
        "version": one.version,
        "control": one.control,
        "share": one.share,
        "by": one.plan.by,
        "state": one.state,
        "started": one.started,
        "ended": one.ended,
        "reason": one.reason,
        "alpha": one.plan.alpha,
        "cost_weight": one.plan.cost_weight,
        "arms": result.get("arms", {}),
        "differences": result.get("differences", []),
        "shadow": result.get("shadow"),
    }
    return {**told, "words": _words(told)}


def _words(one: Mapping[str, Any]) -> str:
    """An experiment in a sentence or two."""
    ended = f"Ended as {one['state']}: {one['reason']}. " if one["state"] != RUNNING else ""
    shadow = one["shadow"]
    if shadow is not None:
        same = "" if shadow["same"] is None else f", {shadow['same']:.0%} as it really went"
        return f"{ended}It would have decided {shadow['decisions']} requests{same}."
    arms = one["arms"]
    said = f"{ended}Candidate and control decided {arms['candidate']['requests']} and "
    said += f"{arms['control']['requests']} requests; "
    told = [
        f"{d['metric']} differs by {d['estimate']:+.4g} ({d['low']:+.4g} to {d['high']:+.4g})"
        for d in one["differences"]
        if d["low"] is not None
    ]
    return said + ("; ".join(told) + "." if told else "too few for a verdict.")
