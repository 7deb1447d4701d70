"""Conformal routing: keep an answer where the set of options that it may be has one member.

Routes a question with K options after the small model's probabilities of them; calibrated on
answered questions. Su et al., CP-Router, arXiv 2505.19970, with the split conformal sets for
language models of Kumar et al., arXiv 2305.18404.

    nonconformity s_i = 1 - p(true option_i)                  i = 1 ... n calibration questions
    q = the ceil((n + 1)(1 - alpha))-th smallest s_i, infinity where that is beyond n
    set(x) = options with p >= 1 - q;   accept the small model where |set| = 1, else defer

For exchangeable questions P(true option in set) >= 1 - alpha, and < 1 - alpha + 1 / (n + 1) without
ties. A routed stream is selected: calibrate on the questions that reach this stage. An empty set is
possible, and defers. CP-Router's choice of alpha by the entropy of set sizes is not here: alpha is
what the user promises.

Shape letters: Q queries, K options, n calibration questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.policy import PolicyError


@dataclass(frozen=True)
class ConformalSets:
    """Prediction sets with a promised coverage.

    Attributes:
        alpha: share of questions whose set may miss the true option.
        quantile: q, infinity where every option belongs to every set.
        rows: n.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
        >>> sets = ConformalSets.fit(p, np.array([0, 0, 1, 1]), alpha=0.4)
        >>> sets.sets(np.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
        [[True, False], [False, False]]
    """

    alpha: float
    quantile: float
    rows: int

    @classmethod
    def fit(
        cls, probabilities: FloatArray, truth: NDArray[np.integer], *, alpha: float
    ) -> ConformalSets:
        """Calibrate on n questions with known answers, which no threshold was chosen on.

        Args:
            probabilities: `[n, K]` of the options, at least 0; they need not be calibrated.
            truth: `[n]` index of the true option.
            alpha: between 0 and 1.

        Raises:
            PolicyError: shapes differ, indices out of range, NaN, or alpha outside 0 to 1.
        """
        p, true = np.asarray(probabilities, np.float64), np.asarray(truth)
        if p.ndim != 2 or true.shape != p.shape[:1] or not len(p) or not (p >= 0).all():
            raise PolicyError(
                f"probabilities {p.shape} and truth {true.shape}, expected [n, K] at least 0, [n]"
            )
        if not 0.0 < alpha < 1.0 or true.min() < 0 or true.max() >= p.shape[1]:
            raise PolicyError(
                f"alpha={alpha!r} and options {true.min()} to {true.max()} of {p.shape[1]}; "
                "expected a share between 0 and 1 and indices of options"
            )
        n = len(p)
        scores = np.sort(1.0 - p[np.arange(n), true])
        # 1 - alpha is rarely a binary fraction: a rank that is whole in decimals must stay so.
        rank = int(np.ceil(round((n + 1) * (1.0 - alpha), 9)))
        return cls(alpha, float(scores[rank - 1]) if rank <= n else float("inf"), n)

    def sets(self, probabilities: FloatArray) -> NDArray[np.bool_]:
        """`[Q, K]` which options belong to the set of each query."""
        p = np.asarray(probabilities, np.float64)
        if p.ndim != 2 or np.isnan(p).any():
            raise PolicyError(f"probabilities have shape {p.shape} or NaN, expected [Q, K]")
        return 1.0 - p <= self.quantile

    def accepts(self, probabilities: FloatArray) -> NDArray[np.bool_]:
        """`[Q]` whether the small model's answer stands: its set has exactly one member."""
        return np.asarray(self.sets(probabilities).sum(axis=1) == 1, np.bool_)


def coverage(sets: NDArray[np.bool_], truth: NDArray[np.integer]) -> float:
    """Share of queries whose set `[Q, K]` holds the true option `[Q]`."""
    return float(sets[np.arange(len(sets)), truth].mean())
