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
from wye.gateway.frontier import frontier_of

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import QueryRouter

Progress = Callable[[str], None]

logger = logging.getLogger("wye.gateway")
_PROMPTS = 24
_STEP = 0.1


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
    weight = _cost_weight(data)
    policies = {
        "balanced": {"kind": "utility", "cost_weight": weight},
        "quality": {"kind": "quality"},
        "thrifty": {"kind": "utility", "cost_weight": 10 * weight},
    }
    train = data.part("train")
    best = train.model_names[int(np.nanargmax(np.nanmean(train.quality, axis=0)))]
    return Config.model_validate({"targets": targets, "policies": policies, "baseline": best})


def _cost_weight(data: RoutingData) -> float:
    """Quality per USD at which the dearest strategy must be better than the cheapest by `_STEP`.

    Two significant digits, since a person reads it in every reason.
    """
    mean = np.nanmean(data.part("train").cost, axis=0)
    return float(f"{_STEP / (mean.max() - mean.min()):.2g}")


def embedded_router(data: RoutingData, progress: Progress, *, system: str = "auto") -> Ready:
    """A router of the embedded outcomes, trained where no cache holds it.

    Args:
        data: outcomes, with a part `train` and a part `test`.
        progress: is told what takes long.
        system: name of the router, as in `wye.query.get_router`.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("wye") / "routers" / f"{system}-{_digest(data)}"
    cached = _read(folder)
    if cached is None:
        progress("training the router on the embedded outcomes (once)")
        cached = _train(data, folder, system)
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


def _train(data: RoutingData, folder: Path, system: str) -> tuple[QueryRouter, dict[str, Any]]:
    from threadpoolctl import threadpool_limits

    from wye.query.learning.training import train
    from wye.query.report import evaluate

    # The matrices are small: threads that wait for each other take longer than one that works, and
    # many times longer on a machine that is busy elsewhere.
    with threadpool_limits(limits=1):
        router = train(data.part("train"), system)
        report = evaluate(router, data.part("test"), latency_samples=20)
    frontier = frontier_of(report)
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
