"""What each model did in each group of queries, shrunk to what it does on all of them.

Shape letters: Q queries, M models, C groups.
"""

from __future__ import annotations

import numpy as np

from wye.query.base import FloatArray


def group_table(
    owner: FloatArray, quality: FloatArray, means: FloatArray, shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    """Quality of each model in each group and its standard uncertainty, each `[C, M]`.

    Args:
        owner: `[Q, C]` share of each query that belongs to each group.
        quality: `[Q, M]` outcomes, NaN where unknown.
        means: `[M]` mean quality of each model.
        shrinkage: weight of the model's mean, in queries: with n outcomes in a group its own mean
            counts n / (n + shrinkage), which is empirical Bayes for a normal prior. 0 gives the
            plain mean of a group, and the model's mean where a group has no outcome.

    Example:
        >>> owner = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> quality = np.array([[1.0], [1.0], [0.0]])
        >>> group_table(owner, quality, np.array([0.5]), 1.0)[0].round(2).tolist()
        [[0.83], [0.25]]
    """
    known = np.isfinite(quality)
    excess = owner.T @ np.where(known, quality - means, 0.0)
    weight = owner.T @ known + shrinkage
    # Without shrinkage, a cell that nobody answered in has no weight at all: it is the mean.
    table = means + np.divide(excess, weight, out=np.zeros_like(excess), where=weight > 0)
    limited = np.clip(table, 0.01, 0.99)
    return table, np.sqrt(limited * (1 - limited) / (1.0 + weight))
