"""A resource (dollars, joules, seconds) on a scale from 0 (little) to 1 (much), as rewards need it.

    u = clip((v - low) / (high - low), 0, 1), of log v where asked; 0.5 without bounds or where they
    are equal

Bounds are one pair for all, or one per task. Bounds per task hide that some tasks take fifty times
more than others; a logarithm keeps that and is not ruled by the dearest answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.contexts import Task

# The key of the bounds that hold where a task has none of its own.
EVERY = ""
_LEAST = 1e-12
PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class ResourceScale:
    """Bounds of a resource.

    Args:
        bounds: (low, high) by task, in the unit of the resource; the key "" holds for all others.
        log: whether logarithms are scaled.

    Raises:
        RouterError: a bound that is negative or not finite, or low above high.

    Example:
        >>> scale = ResourceScale({"": (1.0, 100.0)}, log=True)
        >>> scale.apply(np.array([[1.0, 10.0, 1000.0]]), [None]).tolist()
        [[0.0, 0.5, 1.0]]
    """

    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    log: bool = True

    def __post_init__(self) -> None:
        for task, pair in self.bounds.items():
            low, high = pair
            if not (np.isfinite(low) and np.isfinite(high) and 0.0 <= low <= high):
                raise RouterError(
                    f"the range of {task or 'the resource'!r} is {tuple(pair)}, expected finite "
                    "0 <= low <= high"
                )

    @classmethod
    def fit(
        cls, values: FloatArray, tasks: Sequence[Task], *, log: bool, per_task: bool
    ) -> ResourceScale:
        """Bounds at the 1st and 99th percentile of values `[Q, M]`, NaN where unknown."""
        groups = {EVERY: values}
        if per_task:
            names = np.array([t or EVERY for t in tasks])
            groups |= {str(t): values[names == t] for t in np.unique(names)}
        bounds = {}
        for task, group in groups.items():
            known = group[np.isfinite(group)]
            if known.size:
                low, high = np.percentile(known, PERCENTILES)
                bounds[task] = (float(low), float(high))
        return cls(bounds, log)

    def apply(self, values: FloatArray, tasks: Sequence[Task]) -> FloatArray:
        """Scaled values `[Q, N]` of Q queries with their tasks; NaN stays NaN."""
        pairs = [self.bounds.get(t or EVERY, self.bounds.get(EVERY, (0.0, 0.0))) for t in tasks]
        ends = np.array(pairs, np.float64).reshape(len(pairs), 2)
        given = values
        if self.log:
            ends, given = np.log(np.maximum(ends, _LEAST)), np.log(np.maximum(values, _LEAST))
        low, width = ends[:, :1], ends[:, 1:] - ends[:, :1]
        scaled = np.clip((given - low) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        flat = np.where(np.isnan(values), np.nan, 0.5)
        return np.asarray(np.where(width > 0, scaled, flat), np.float64)
