"""The strong and the weak model of a log, and what the name of the data set alone says of them.

Shape letters: Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.checks.query.trials import Floats, Trial
    from wye.data import RoutingData


@dataclass(frozen=True)
class TwoModels:
    """A trial cut down to two models, the weak one in column 0 and the strong one in column 1.

    Attributes:
        train, test: as in the trial.
        weak, strong: `[Q]` quality of the test queries.
    """

    train: RoutingData
    test: RoutingData
    weak: Floats
    strong: Floats


def strong_and_weak(trial: Trial) -> TwoModels:
    """The best model in training, and the cheapest of the others."""
    names = trial.train.model_names
    pair = [names[cheapest(trial.train, trial.best)], names[trial.best]]
    test = trial.test.with_models(pair)
    return TwoModels(trial.train.with_models(pair), test, test.quality[:, 0], test.quality[:, 1])


def cheapest(train: RoutingData, best: int) -> int:
    """Column of the cheapest model but the best one; the worst where no price is known."""
    models = train.models[["price_in_per_mtok", "price_out_per_mtok"]].to_numpy(dtype=np.float64)
    for cost in (train.cost.mean(axis=0), models.sum(axis=1)):
        if np.isfinite(cost).all() and np.ptp(cost) > 0:
            # Of equally cheap models the worst, so that the gap is as wide as the data have it.
            order = np.lexsort((train.quality.mean(axis=0), cost))
            return int(next(m for m in order if m != best))
    return int(train.quality.mean(axis=0).argmin())


def dataset_gap(train: RoutingData, test: RoutingData) -> Floats:
    """`[Q]` mean gap in training of the dataset of each test query, strong minus weak."""
    gap = train.quality[:, 1] - train.quality[:, 0]
    overall = float(gap.mean())
    means = {name: float(gap[train.datasets == name].mean()) for name in set(train.datasets)}
    return np.array([means.get(name, overall) for name in test.datasets])
