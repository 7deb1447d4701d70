"""What checks of the query scale measure on: the same queries and models for everybody, split anew
for every seed.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.data import RoutingData
    from wye.query.base import Estimate

Floats = NDArray[np.float64]
MOST_QUERIES = 5000
LEAST_QUERIES = 200


@dataclass(frozen=True)
class Trial:
    """One split of a set in which every model answered every query.

    Attributes:
        seed: of the split and of what is fitted on it.
        train, test: no question stands in both.
        quality: `[Q, M]` of the test queries.
        cost: `[Q, M]` USD of the test queries, None where the set has no costs.
        best: column of the model with the highest mean quality in training.
    """

    seed: int
    train: RoutingData
    test: RoutingData
    quality: Floats
    cost: Floats | None
    best: int

    @property
    def best_single(self) -> float:
        """Mean test quality of the model that was best in training."""
        return float(self.quality[:, self.best].mean())

    @property
    def random(self) -> float:
        """Expected mean test quality of a model drawn at random for each query."""
        return float(self.quality.mean())

    @property
    def oracle(self) -> float:
        """Mean test quality of the best answer to each query."""
        return float(self.quality.max(axis=1).mean())

    def routed(self, estimate: Estimate) -> float:
        """Mean test quality when each query goes to the model with the best estimate."""
        from wye.query.policies import Quality
        from wye.query.policies.choosing import targets_of

        target = targets_of(Quality().choose(estimate))
        return float(self.quality[np.arange(len(target)), target].mean())


def trials(
    context: CheckContext, *, test_share: float = 0.3, costs: bool = False
) -> Iterator[Trial]:
    """One trial for each seed.

    Datasets on which the best single model shows a grading failure (`wye.data.find_artefacts`) are
    left out: any router gains there. Of a larger set, 5000 queries are drawn for each seed.

    Args:
        context: data and seeds.
        test_share: share of questions that are tested on.
        costs: whether the check is about cost.

    Raises:
        CheckError: too few queries or models, or costs are needed and not known.
    """
    data = comparable(context.data)
    if costs and not np.isfinite(data.cost).all():
        raise CheckError(f"{data.name} has no costs, and this check is about cost; name other data")
    for number, seed in enumerate(context.seeds, start=1):
        context.progress(f"seed {number} of {len(context.seeds)}")
        yield _trial(data, seed, test_share)


def comparable(data: RoutingData) -> RoutingData:
    """The queries that all well-covered models answered, without artefacts of the best of them.

    Raises:
        CheckError: fewer than two models or 200 queries are left.
    """
    from wye.data import find_artefacts
    from wye.query.metrics.comparison import compare_on

    compared = compare_on(data)
    mask = np.zeros(len(data), dtype=bool)
    mask[compared.rows] = True
    whole = data.where(mask).with_models(compared.models)
    best = whole.model_names[int(whole.quality.mean(axis=0).argmax())]
    broken = [a.dataset for a in find_artefacts(whole) if a.model == best]
    kept = whole.exclude_dataset(*broken)
    if len(kept) < LEAST_QUERIES or len(kept.models) < 2:
        raise CheckError(
            f"{data.name} has {len(kept)} queries that each of {len(kept.models)} models answered; "
            f"a check needs {LEAST_QUERIES} queries and 2 models"
        )
    return kept


def _trial(data: RoutingData, seed: int, test_share: float) -> Trial:
    if len(data) > MOST_QUERIES:
        drawn = np.random.default_rng(seed).permutation(len(data))[:MOST_QUERIES]
        mask = np.zeros(len(data), dtype=bool)
        mask[drawn] = True
        data = data.where(mask)
    divided = data.split(test_share=test_share, seed=seed)
    train, test = divided.part("train"), divided.part("test")
    cost = test.cost
    return Trial(
        seed=seed,
        train=train,
        test=test,
        quality=test.quality,
        cost=cost if np.isfinite(cost).all() else None,
        best=int(train.quality.mean(axis=0).argmax()),
    )


def averaged(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the seeds."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def described(context: CheckContext, what: str) -> str:
    """A sentence that says what was done, on how much of what."""
    kept = comparable(context.data)
    left_out = sorted(set(context.data.datasets) - set(kept.datasets))
    artefacts = f", without {', '.join(left_out)} (grading artefact)" if left_out else ""
    drawn = f", {MOST_QUERIES} drawn for each seed" if len(kept) > MOST_QUERIES else ""
    return (
        f"{what} Data: {context.data.name}, {len(kept)} queries x {len(kept.models)} models"
        f"{drawn}{artefacts}; questions split anew for each seed."
    )
