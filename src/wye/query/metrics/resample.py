"""Bootstrap over queries: every figure of a report, with an interval, from one set of draws.

The same draws serve every router and every baseline of a report, so differences are paired (Efron
and Tibshirani 1993, chapter 13: percentile intervals). Row 0 of every result is the figure on the
data as they are; rows 1 to B are the draws.

Shape letters: Q queries, B draws, K columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wye.query.base import FloatArray

_CELLS = 4_000_000


@dataclass(frozen=True)
class Figure:
    """A figure and its bootstrap interval; NaN where it has no meaning.

    Attributes:
        value: on the data as they are.
        low, high: ends of the interval, NaN where `value` is.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a figure at all."""
        return math.isfinite(self.value)


UNKNOWN = Figure(math.nan, math.nan, math.nan)


class Resample:
    """B draws of Q queries with replacement.

    Args:
        n_queries: Q, at least 1.
        n_draws: B; with 0 no figure has an interval.
        seed: of the draws.
        level: share of the draws inside an interval.

    Example:
        >>> draws = Resample(100, 500, seed=0)
        >>> figure = draws.figure(draws.mean(np.arange(100.0)))
        >>> figure.value, figure.low < 49.5 < figure.high
        (49.5, True)
    """

    def __init__(
        self, n_queries: int, n_draws: int = 1000, *, seed: int = 0, level: float = 0.95
    ) -> None:
        self.n_queries = n_queries
        self.n_draws = n_draws
        self.level = level
        rng = np.random.default_rng(seed)
        self._counts: NDArray[np.uint16] = np.empty((n_draws + 1, n_queries), dtype=np.uint16)
        self._counts[0] = 1
        step = max(1, _CELLS // max(n_queries, 1))
        for start in range(1, n_draws + 1, step):
            n = min(step, n_draws + 1 - start)
            drawn = rng.integers(0, n_queries, (n, n_queries))
            drawn += np.arange(n)[:, None] * n_queries
            counted = np.bincount(drawn.ravel(), minlength=n * n_queries)
            self._counts[start : start + n] = counted.reshape(n, n_queries)

    def mean(self, values: FloatArray) -> FloatArray:
        """`[B + 1, ...]` means over queries of `values` `[Q, ...]`."""
        flat = values.reshape(self.n_queries, -1)
        parts = [weights @ flat for weights in self.weights()]
        means: FloatArray = np.concatenate(parts) / self.n_queries
        return means.reshape((self.n_draws + 1, *values.shape[1:]))

    def weights(self) -> Iterator[FloatArray]:
        """How often each query was drawn, `[b, Q]` floats, some draws at a time, in order."""
        step = max(1, _CELLS // max(self.n_queries, 1))
        for start in range(0, self.n_draws + 1, step):
            yield self._counts[start : start + step].astype(np.float64)

    def figure(
        self, values: FloatArray, *, level: float | None = None, centred: bool = False
    ) -> Figure:
        """The figure of `[B + 1]` values; draws in which it has no meaning (NaN) are left out.

        Args:
            level: of the interval; the resample's own when None.
            centred: move the draws so that their mean is the figure, at least 0: for a sum of
                absolute values, which drawing with replacement raises.
        """
        value = float(values[0])
        if not math.isfinite(value):
            return UNKNOWN
        draws = values[1:][np.isfinite(values[1:])]
        if not draws.size:
            return Figure(value, math.nan, math.nan)
        if centred:
            draws = np.maximum(draws - draws.mean() + value, 0.0)
        tail = (1.0 - (self.level if level is None else level)) / 2.0
        low, high = np.quantile(draws, (tail, 1.0 - tail))
        return Figure(value, float(low), float(high))
