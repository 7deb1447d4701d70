"""What each model did in each group of queries, shrunk to what it does on all of them.

Shape letters: Q queries, M models, C groups.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class GroupJudgement:
    """What a table of groups expects of the models on queries that share in several groups.

    Attributes:
        both: `[C, 2M]` quality of each model in each group, then the variance of that.
        least: `[1, M]` variance that every query has.
    """

    both: FloatArray
    least: FloatArray

    @classmethod
    def of(cls, table: FloatArray, table_std: FloatArray, std: FloatArray) -> GroupJudgement:
        """By a table and its standard uncertainty, each `[C, M]`, beside that of the means `[M]`.

        Example:
            >>> table, std = np.array([[0.2], [0.6]]), np.array([[0.3], [0.3]])
            >>> judgement = GroupJudgement.of(table, std, np.array([0.4]))
            >>> quality, doubt = judgement(np.array([[0.5, 0.5]]))
            >>> quality.round(2).tolist(), doubt.round(2).tolist()
            ([[0.4]], [[0.5]])
        """
        return cls(np.hstack([table, table_std**2]), std[None] ** 2)

    def __call__(self, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`, from shares `[Q, C]`."""
        expected = share @ self.both
        n_models = self.least.size
        return expected[:, :n_models], np.sqrt(expected[:, n_models:] + self.least)
