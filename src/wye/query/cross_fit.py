"""Cross-fitting: estimates of every query by routers that had not seen its question.

The data fall into parts by question; each part is estimated by a router fitted on the others. So
all outcomes serve to judge on, and none is judged by a router that learned it.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.query.base import Estimate, RouterError
from wye.query.wording import counted

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import QueryRouter

TIMED_QUERIES = 60
WARM_UP = 5


@dataclass(frozen=True)
class CrossFit:
    """What the routers of the parts estimated, in one.

    Attributes:
        estimate: of all Q queries, each by the router of its own part.
        parts: `[Q]` which part a query is in.
        fit_seconds: of each part's router.
        decision_seconds: of single queries from text to plan, where they were timed.
    """

    estimate: Estimate
    parts: NDArray[np.intp]
    fit_seconds: tuple[float, ...]
    decision_seconds: NDArray[np.float64]


def cross_fit(
    make: Callable[[], QueryRouter],
    data: RoutingData,
    *,
    folds: int = 3,
    seed: int = 0,
    timed: bool = False,
    prepare: Callable[[QueryRouter], None] = lambda router: None,
    progress: Callable[[str], None] = lambda message: None,
) -> CrossFit:
    """Estimate every query of `data` by a router that was fitted without its question.

    Args:
        make: a router that has learned nothing, the same every time.
        data: outcomes.
        folds: parts, 2 or more.
        seed: of the parts.
        timed: whether single decisions of the last router are timed.
        prepare: called with that router before it is timed.
        progress: is told what runs.

    Raises:
        RouterError: fewer than 2 parts hold a query, or as the router raises.
        DataError: fewer than 2 folds.
    """
    from wye.data.questions import folds_by_question

    texts = data.texts
    parts = folds_by_question(texts, folds, seed=seed)
    present = np.unique(parts)
    if present.size < 2:
        raise RouterError(
            f"{data.name} has {counted(texts, 'query')}, all in one of {folds} parts; "
            "cross-fitting takes more questions"
        )
    made: list[tuple[NDArray[np.intp], Estimate]] = []
    seconds = []
    router = None
    for number, part in enumerate(present.tolist(), start=1):
        progress(f"part {number} of {present.size}")
        rows = np.flatnonzero(parts == part)
        learn = data.where(parts != part)
        started = time.perf_counter()
        router = make().fit(learn)
        seconds.append(time.perf_counter() - started)
        made.append((rows, router.estimate([texts[i] for i in rows.tolist()])))
    decisions = np.empty(0)
    if timed and router is not None:
        prepare(router)
        decisions = decision_times(router, [texts[i] for i in made[-1][0].tolist()])
    return CrossFit(_joined(made, len(texts)), parts, tuple(seconds), decisions)


def decision_times(
    router: QueryRouter,
    texts: Sequence[str],
    *,
    samples: int = TIMED_QUERIES,
    warm_up: int = WARM_UP,
) -> NDArray[np.float64]:
    """Seconds from one text to a plan, for some of `texts`, each alone.

    Args:
        router: fitted.
        texts: to choose from, evenly over their order.
        samples: how many are timed; below 1 for none.
        warm_up: how many of them are routed once before.
    """
    spaced = np.linspace(0, len(texts) - 1, max(0, samples)).astype(int)
    picked = [texts[i] for i in spaced]
    for text in picked[:warm_up]:
        router.route([text])
    took = np.empty(len(picked))
    for i, text in enumerate(picked):
        started = time.perf_counter()
        router.route([text])
        took[i] = time.perf_counter() - started
    return took


def _joined(made: list[tuple[NDArray[np.intp], Estimate]], n_queries: int) -> Estimate:
    """Estimates of disjoint rows as one of all `n_queries`, in their order."""
    models = made[0][1].models
    order = np.argsort(np.concatenate([rows for rows, _ in made]), kind="stable")
    aligned = [estimate.restrict(models) for _, estimate in made]
    shares = [len(rows) / n_queries for rows, _ in made]

    def stacked(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(e, name) for e in aligned])[order]

    return Estimate(
        models=models,
        quality=stacked("quality"),
        quality_std=stacked("quality_std"),
        cost=stacked("cost"),
        latency=stacked("latency"),
        novelty=stacked("novelty"),
        router_cost=float(sum(s * e.router_cost for s, e in zip(shares, aligned, strict=True))),
        router_seconds=float(
            sum(s * e.router_seconds for s, e in zip(shares, aligned, strict=True))
        ),
    )
