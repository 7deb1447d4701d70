"""Logs as streams for online routers: which models and queries, in which order, paid how.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.data import RoutingData
    from wye.query.online.feedback import Replay

MODELS = 11
QUERIES = 3000
LAST = 1000
COVERED = 0.99
LEAST_TASKS = 3


def priced_pool(data: RoutingData) -> RoutingData:
    """The queries on which quality and cost of every model are known, of 11 models at most.

    Of more models with both on 99% of the queries, 11 are taken at even steps of the order by mean
    cost: a rule that knows nothing of who does well.

    Raises:
        CheckError: fewer than two such models, or three datasets.
    """
    from wye.checks.query.trials import comparable

    known = (np.isfinite(data.quality) & np.isfinite(data.cost)).mean(axis=0)
    names = [m for m, share in zip(data.model_names, known, strict=True) if share >= COVERED]
    if len(names) < 2:
        raise CheckError(
            f"{data.name} has {len(names)} models with quality and cost on {COVERED:.0%} of its "
            "queries; the check needs 2. Name other data"
        )
    priced = data.with_models(names)
    whole = np.isfinite(priced.quality) & np.isfinite(priced.cost)
    priced = comparable(priced.where(whole.sum(axis=1) == len(names)))
    if len(set(priced.datasets)) < LEAST_TASKS:
        raise CheckError(
            f"{data.name} has {len(set(priced.datasets))} datasets; tasks are told apart from "
            f"{LEAST_TASKS} on"
        )
    order = np.argsort(priced.cost.mean(axis=0), kind="stable")
    steps = np.round(np.linspace(0, order.size - 1, min(MODELS, order.size))).astype(np.intp)
    return priced.with_models([priced.model_names[i] for i in order[steps]])


def drawn(pool: RoutingData, seed: int) -> RoutingData:
    """At most 3000 queries of `pool`, drawn at random."""
    if len(pool) <= QUERIES:
        return pool
    mask = np.zeros(len(pool), np.bool_)
    mask[np.random.default_rng(seed).permutation(len(pool))[:QUERIES]] = True
    return pool.where(mask)


def orders(context: CheckContext, least: int) -> tuple[int, ...]:
    """The seeds of the context, and the next numbers where these are fewer than `least`."""
    seeds = list(context.seeds)
    while len(seeds) < least:
        seeds.append(max(seeds, default=-1) + 1)
    return tuple(seeds)


@dataclass(frozen=True)
class Baselines:
    """What could have been paid on the last steps of a stream, mean reward each.

    Attributes:
        random: of a model drawn at random.
        best_single: of the model that is best over the whole stream, known in hindsight.
        best_per_task: of the best model of each dataset, known in hindsight.
        oracle: of the best model on every query.
    """

    random: float
    best_single: float
    best_per_task: float
    oracle: float

    @classmethod
    def of(cls, rewards: Floats, tasks: np.ndarray, rows: np.ndarray) -> Baselines:
        """From rewards `[Q, M]` and datasets `[Q]` of a stream whose last steps are `rows`."""
        per_task = np.empty(len(rewards))
        for task in np.unique(tasks):
            there = tasks == task
            per_task[there] = rewards[there, int(rewards[there].mean(axis=0).argmax())]
        last = rewards[rows]
        return cls(
            random=float(last.mean()),
            best_single=float(last[:, int(rewards.mean(axis=0).argmax())].mean()),
            best_per_task=float(per_task[rows].mean()),
            oracle=float(last.max(axis=1).mean()),
        )


def last_steps(replay: Replay) -> slice:
    """The last 1000 steps, or the last third where there are fewer than 3000."""
    return slice(len(replay) - min(LAST, len(replay) // 3), None)
