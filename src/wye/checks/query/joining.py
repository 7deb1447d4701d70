"""What routing is worth when a model joins a fitted router from few answers. Measures, no claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Trial
    from wye.query.learning.joining import JoiningRouter


def routed_after_joining(
    trial: Trial,
    router: Callable[[], JoiningRouter],
    answers: Sequence[int],
    joining: int,
    context: CheckContext,
) -> dict[int, list[float]]:
    """Mean test quality of routing, for each number of answers and each model that joins.

    The best single model joins too: it is the one whose loss would hurt most. The router is fitted
    on all other models, the newcomer's answers are drawn from the training queries, and the next
    number of answers starts from the router as it was before.

    Args:
        trial: the split.
        router: makes one that has learned nothing.
        answers: how many answers the newcomer joins with.
        joining: how many models join, one at a time.
        context: its `progress` is told who joins.
    """
    train, names = trial.train, trial.train.model_names
    generator = np.random.default_rng(trial.seed)
    others = generator.permutation([m for m in range(len(names)) if m != trial.best])
    routed: dict[int, list[float]] = {n: [] for n in answers}
    for column in [trial.best, *others[: joining - 1].tolist()]:
        name = names[column]
        context.progress(f"seed {trial.seed}, {name} joins")
        rest = train.with_models([m for m in names if m != name])
        order = generator.permutation(len(train))
        measured = train.quality[:, column]
        for n in answers:
            rows = order[: min(n, len(order))]
            fitted = router().fit(rest)
            fitted.add_model(name, [train.texts[i] for i in rows], measured[rows].tolist())
            routed[n].append(trial.routed(fitted.estimate(trial.test.texts).restrict(names)))
    return routed
