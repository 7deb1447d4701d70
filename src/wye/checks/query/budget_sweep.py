"""One policy at many cost weights, read off at given budgets.

Shape letters: L operating points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WEIGHTS = 25


def cost_weights(cost: Floats) -> list[float]:
    """Quality per USD from nothing to far beyond what any answer of `[Q, M]` costs is worth."""
    spread = float(np.ptp(cost.mean(axis=0)))
    return [0.0, *(np.geomspace(0.003, 30.0, WEIGHTS - 1) / spread).tolist()]


def mean_quality_at(points: list[tuple[float, float]], budgets: Floats) -> float:
    """Quality at each budget on the curve of L (cost, quality) in order of weight, averaged.

    A curve that cannot be as cheap as a budget gives what its cheapest point and doing nothing
    give by a coin.
    """
    from wye.query.metrics.curve import quality_at

    cost = np.array([[c for c, _ in points] + [0.0]])
    quality = np.array([[q for _, q in points] + [0.0]])
    return float(np.mean([quality_at(cost, quality, np.array([b]))[0] for b in budgets]))
