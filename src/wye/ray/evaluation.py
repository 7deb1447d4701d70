"""Evaluation on Ray Data: what a router's choices reached on a log, as sums over its blocks.

An answer counts where the router would have chosen who gave it, weighted by how rarely the log
chose it (self-normalised inverse propensity; Swaminathan and Joachims, The Self-Normalized
Estimator, NIPS 2015, equation 6):

    value = sum w q / sum w        w = [chosen by the router = model of the row] / propensity

with its standard error by the delta method. Where every model answered every query, `propensity` is
1 and the value is the mean over the router's choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wye.query.base import QueryRouter
from wye.query.policies import Quality
from wye.query.registry import get_router
from wye.ray.serving import RayError

if TYPE_CHECKING:
    from ray.data import Dataset

    from wye.query.policy import Policy

_BATCH = 20_000


@dataclass(frozen=True)
class Reached:
    """Sums over rows of a log, of what a router's choices reached.

    Attributes:
        rows, matched: how many there were, and were by whom the router would have asked.
        weight, weight2: of w and its square.
        quality, quality1, quality2: of w q, w^2 q and w^2 q^2.
        cost: of w times USD; NaN where a matched row does not know it.
    """

    rows: float = 0.0
    matched: float = 0.0
    weight: float = 0.0
    weight2: float = 0.0
    quality: float = 0.0
    quality1: float = 0.0
    quality2: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Reached) -> Reached:
        return Reached(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def value(self) -> float:
        """Expected quality of the router's choices; NaN where none was ever made by the log."""
        return self.quality / self.weight if self.weight else math.nan

    @property
    def cost_usd(self) -> float:
        """Expected cost of a choice."""
        return self.cost / self.weight if self.weight else math.nan

    @property
    def standard_error(self) -> float:
        """Of `value`."""
        v = self.value
        square = self.quality2 - 2 * v * self.quality1 + v * v * self.weight2
        return math.sqrt(max(0.0, square)) / self.weight if self.weight else math.nan

    @property
    def effective_rows(self) -> float:
        """How many rows of equal weight would tell as much."""
        return self.weight**2 / self.weight2 if self.weight2 else 0.0


def reached(router: QueryRouter, policy: Policy, frame: pd.DataFrame) -> Reached:
    """The sums of one block, with the columns of `wye.ray.logs`.

    Raises:
        RayError: a row does not know its propensity rightly.
    """
    frame = frame[frame["propensity"].notna()]
    if frame.empty:
        return Reached()
    propensity = frame["propensity"].to_numpy(np.float64)
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise RayError(
            f"propensities go from {propensity.min()} to {propensity.max()}; expected above 0, "
            "and 1 at most"
        )
    texts, place = np.unique(frame["text"].to_numpy(object), return_inverse=True)
    targets = np.array(router.route([str(text) for text in texts], policy).targets, object)
    w = (targets[place] == frame["model"].to_numpy(object)) / propensity
    q, cost = frame["quality"].to_numpy(np.float64), frame["cost_usd"].to_numpy(np.float64)
    return Reached(
        rows=float(len(frame)),
        matched=float((w > 0).sum()),
        weight=float(w.sum()),
        weight2=float((w**2).sum()),
        quality=float((w * q).sum()),
        quality1=float((w**2 * q).sum()),
        quality2=float((w**2 * q**2).sum()),
        cost=float((w[w > 0] * cost[w > 0]).sum()),
    )


def evaluate(rows: Dataset, router: QueryRouter, policy: Policy | None = None) -> Reached:
    """What the choices of a router under a policy reached on a log.

    Args:
        rows: see `wye.ray.logs.outcome_rows`.
        router: fitted.
        policy: `Quality()` when not given; one that decides each query by itself.

    Raises:
        RayError: the policy's choices depend on what came before, so blocks cannot be apart.
    """
    rule = policy or Quality()
    if rule.stateful:
        raise RayError(
            f"{rule} decides by what came before, so that blocks of a log cannot be evaluated "
            "apart; use wye replay on one machine"
        )
    told = (router.name, router.get_params(), router.models_, *router.get_state())
    parts = rows.map_batches(
        _reached, fn_args=(told, rule), batch_size=_BATCH, batch_format="pandas"
    )
    total = Reached()
    for found in parts.iter_rows():
        total = total + Reached(**{f.name: float(found[f.name]) for f in fields(Reached)})
    return total


def _reached(frame: pd.DataFrame, told: tuple[Any, ...], policy: Policy) -> dict[str, Any]:
    name, params, models, arrays, values = told
    router = get_router(name, **params)
    router.models_ = models
    router.set_state(arrays, values)
    found = reached(router, policy, frame)
    return {f.name: np.array([getattr(found, f.name)]) for f in fields(Reached)}
