"""`wye up`: the embedded pool and its router, with nothing to configure.

The router is trained on the embedded outcomes at the first start and cached under a digest of these
outcomes and of wye's version, with its frontier on the part of the outcomes that it did not see.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.errors import WyeError
from wye.gateway.config import Config

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import QueryRouter

Progress = Callable[[str], None]

logger = logging.getLogger("wye.gateway")
_PROMPTS = 24
_WEIGHTS = (0.0, *np.geomspace(1.0, 1e6, 25))


@dataclass(frozen=True)
class Ready:
    """What a gateway over known outcomes starts with."""

    router: QueryRouter
    frontier: Mapping[str, Any]
    playground: tuple[Mapping[str, Any], ...]


def embedded_config(data: RoutingData) -> Config:
    """Every strategy of the embedded pool as a target, at the prices of its outcomes."""
    from wye.gateway.pool import STRATEGIES

    prices = data.models.set_index("model")
    targets = []
    for name, strategy in STRATEGIES.items():
        known: Mapping[Any, Any] = prices.loc[name].to_dict() if name in prices.index else {}
        targets.append(
            {
                "name": name,
                "kind": "embedded",
                "strategy": name,
                "price_in_per_mtok": _number(known, "price_in_per_mtok"),
                "price_out_per_mtok": _number(known, "price_out_per_mtok"),
                "context": 2048,
                "description": strategy.description,
            }
        )
    return Config.model_validate({"targets": targets})


def embedded_router(data: RoutingData, progress: Progress) -> Ready:
    """The default router of the embedded outcomes, trained where no cache holds it."""
    from platformdirs import user_cache_path

    folder = user_cache_path("wye") / "routers" / _digest(data)
    cached = _read(folder)
    if cached is None:
        progress("training the router on the embedded outcomes (once)")
        cached = _train(data, folder)
    router, frontier = cached
    return Ready(router, frontier, playground(data))


def playground(data: RoutingData) -> tuple[Mapping[str, Any], ...]:
    """Prompts on which the targets really differ: of each kind the one that divides them most."""
    test = data.part("test")
    quality = test.quality
    spread = np.nan_to_num(np.nanstd(quality, axis=1))
    prompts = []
    for kind in sorted(set(test.datasets)):
        rows = np.flatnonzero(test.datasets == kind)
        row = rows[int(np.argmax(spread[rows]))]
        if spread[row] == 0:
            continue
        right = [m for m, q in zip(test.model_names, quality[row], strict=True) if q >= 0.5]
        wrong = [m for m, q in zip(test.model_names, quality[row], strict=True) if q < 0.5]
        why = f"right when measured: {', '.join(right)}; wrong: {', '.join(wrong)}"
        prompts.append({"text": test.texts[row], "kind": str(kind), "why": why})
    return tuple(prompts[:_PROMPTS])


def measure_frontier(router: QueryRouter, test: RoutingData) -> dict[str, Any]:
    """Mean cost in USD and mean quality on `test` of each target, the router and the oracle."""
    from wye.query.policies import get_policy

    test = test.with_models(router.models_)
    known = np.isfinite(test.quality) & np.isfinite(test.cost)
    rows = np.asarray(known.all(axis=1), dtype=np.bool_)
    test = test.where(rows)
    quality, cost = test.quality, test.cost
    points = [
        _point(name, "single", cost[:, i], quality[:, i]) for i, name in enumerate(test.model_names)
    ]
    estimate = router.estimate(test.texts)
    everyone = np.arange(len(test))
    seen = set()
    for weight in _WEIGHTS:
        policy = get_policy("utility", cost_weight=float(weight))
        plan = policy.choose(estimate).plan
        target = np.asarray(plan.target)
        if target.tobytes() in seen:
            continue
        seen.add(target.tobytes())
        label = f"router, cost_weight={weight:.3g}"
        points.append(_point(label, "router", cost[everyone, target], quality[everyone, target]))
    best = np.lexsort((cost, -quality), axis=1)[:, 0]
    points.append(_point("oracle", "oracle", cost[everyone, best], quality[everyone, best]))
    points += _mixes(points)
    note = (
        f"Measured on {len(test)} questions of the set {test.name!r} that the router has not seen; "
        "cost is the mean per answer."
    )
    return {"points": points, "note": note}


def _mixes(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The corners of the best mixes of single targets: the upper convex hull of their points."""
    singles = sorted(
        (p for p in points if p["kind"] == "single"), key=lambda p: (p["cost_usd"], -p["quality"])
    )
    hull: list[dict[str, Any]] = []
    for point in singles:
        if hull and point["quality"] <= hull[-1]["quality"]:
            continue
        while len(hull) >= 2 and _slope(hull[-2], point) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return [{**p, "kind": "mix", "label": f"mix at {p['label']}"} for p in hull]


def _slope(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    run = right["cost_usd"] - left["cost_usd"]
    rise = float(right["quality"] - left["quality"])
    return rise / run if run > 0 else float("inf")


def _point(label: str, kind: str, cost: np.ndarray, quality: np.ndarray) -> dict[str, Any]:
    return {
        "label": label,
        "kind": kind,
        "cost_usd": float(cost.mean()),
        "quality": float(quality.mean()),
    }


def _train(data: RoutingData, folder: Path) -> tuple[QueryRouter, dict[str, Any]]:
    from wye.query import get_router

    router = get_router("auto").fit(data.part("train"))
    frontier = measure_frontier(router, data.part("test"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        router.save(folder)
        draft = folder / f".frontier.{os.getpid()}"
        draft.write_text(json.dumps(frontier), encoding="utf-8")
        draft.replace(folder / "frontier.json")
    except OSError as error:
        logger.warning("the router cannot be cached in %s: %s", folder, error)
    return router, frontier


def _read(folder: Path) -> tuple[QueryRouter, dict[str, Any]] | None:
    """The cached router; None where there is none that this version can read."""
    from wye.query import load

    if not (folder / "frontier.json").is_file():
        return None
    try:
        frontier = json.loads((folder / "frontier.json").read_text(encoding="utf-8"))
        return load(folder), frontier
    except (OSError, WyeError, ValueError) as error:
        logger.warning("the cached router in %s cannot be read and is made anew: %s", folder, error)
        return None


def _digest(data: RoutingData) -> str:
    from pandas.util import hash_pandas_object

    from wye import __version__

    digest = hashlib.sha256(__version__.encode())
    for table in (data.queries, data.outcomes, data.models):
        digest.update(hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _number(row: Mapping[Any, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or value != value else float(value)
