"""Curves of quality against cost, on all bootstrap draws at once.

A curve is a row of operating points in the order of rising cost weight, so roughly of falling
cost. Between two neighbours lies every mixture of them by a coin, whose cost and quality are the
mixtures of theirs (interpolation of RouterBench, Hu et al. 2024, arXiv 2403.12031, section 3.1).

Shape letters: B draws (row 0: the data as they are), L operating points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.query.base import FloatArray


def quality_at(cost: FloatArray, quality: FloatArray, budget: FloatArray) -> FloatArray:
    """`[B]` quality of the curve at a realised mean cost of at most `budget` `[B]`.

    The first point within the budget, mixed with its dearer neighbour by the coin that spends the
    budget exactly: w = (budget - c_l) / (c_{l-1} - c_l), quality w q_{l-1} + (1 - w) q_l (equation
    1 of RouterBench). Points are found by cost alone, never by their quality. The first point of
    all where that is within the budget; NaN where none is.

    Args:
        cost, quality: `[B, L]` of the points.

    Example:
        >>> cost, quality = np.array([[2.0, 1.0]]), np.array([[0.8, 0.6]])
        >>> quality_at(cost, quality, np.array([1.5])).round(3).tolist()
        [0.7]
    """
    rows = np.arange(cost.shape[0])
    within = cost <= budget[:, None] * (1.0 + 1e-12)
    at = within.argmax(axis=1)
    before = np.maximum(at - 1, 0)
    span = cost[rows, before] - cost[rows, at]
    share = np.where(
        (at > 0) & (span > 0), (budget - cost[rows, at]) / np.where(span > 0, span, 1), 0
    )
    share = np.clip(share, 0.0, 1.0)
    mixed = share * quality[rows, before] + (1.0 - share) * quality[rows, at]
    return np.where(within.any(axis=1), mixed, np.nan)


def cost_at(cost: FloatArray, quality: FloatArray, target: FloatArray) -> FloatArray:
    """`[B]` least cost at which the curve reaches quality `target` `[B]`; NaN where it never does.

    The curve is walked from its cheap end; the point that reaches the target is mixed with the one
    before it, as in `quality_at`. This reads the quality of the points, as every figure of "cost at
    equal quality" must.
    """
    rows = np.arange(cost.shape[0])
    order = np.argsort(cost, axis=1, kind="stable")
    c, q = np.take_along_axis(cost, order, axis=1), np.take_along_axis(quality, order, axis=1)
    reached = q >= target[:, None] - 1e-12
    at = reached.argmax(axis=1)
    before = np.maximum(at - 1, 0)
    gain = q[rows, at] - q[rows, before]
    share = np.where(
        (at > 0) & (gain > 0), (target - q[rows, before]) / np.where(gain > 0, gain, 1), 1
    )
    share = np.clip(share, 0.0, 1.0)
    mixed = share * c[rows, at] + (1.0 - share) * c[rows, before]
    return np.where(reached.any(axis=1), mixed, np.nan)


def hull(cost: FloatArray, quality: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Non-decreasing convex hull of each draw's points, `[B, L]` twice, padded with the last one.

    The least concave, non-decreasing function above the points (RouterBench, section 3.2; Andrew's
    monotone chain 1979, all draws in step).
    """
    n_draws, n_points = cost.shape
    rows = np.arange(n_draws)
    order = np.lexsort((-quality, cost), axis=1)
    c = np.take_along_axis(cost, order, axis=1)
    q = np.maximum.accumulate(np.take_along_axis(quality, order, axis=1), axis=1)
    hull_c, hull_q = np.zeros_like(c), np.zeros_like(q)
    size = np.zeros(n_draws, dtype=np.intp)
    for l in range(n_points):
        while True:
            last, older = np.maximum(size - 1, 0), np.maximum(size - 2, 0)
            c1, q1 = hull_c[rows, last], hull_q[rows, last]
            c0, q0 = hull_c[rows, older], hull_q[rows, older]
            below = (q1 - q0) * (c[:, l] - c0) <= (q[:, l] - q0) * (c1 - c0)
            pop = ((size >= 2) & below) | ((size >= 1) & (c1 == c[:, l]) & (q1 <= q[:, l]))
            if not pop.any():
                break
            size -= pop
        # A dearer point without more quality is not on a non-decreasing hull.
        last = np.maximum(size - 1, 0)
        add = (size == 0) | (q[:, l] > hull_q[rows, last])
        hull_c[rows[add], size[add]] = c[add, l]
        hull_q[rows[add], size[add]] = q[add, l]
        size += add
    place = np.minimum(np.arange(n_points)[None, :], size[:, None] - 1)
    return np.take_along_axis(hull_c, place, axis=1), np.take_along_axis(hull_q, place, axis=1)


def aiq(cost: FloatArray, quality: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """`[B]` average improvement in quality: mean height of the hull between two costs.

    AIQ = 1 / (c_max - c_min) times the integral from c_min to c_max of the non-decreasing convex
    hull (RouterBench, equation 4). Beyond its last point the hull is flat.

    Args:
        cost, quality: `[B, L]` points, of which one lies at or below `low`.
        low, high: `[B]` c_min and c_max. NaN comes out where they are equal.
    """
    c, q = hull(cost, quality)
    left, right = c[:, :-1], c[:, 1:]
    a = np.clip(left, low[:, None], high[:, None])
    b = np.clip(right, low[:, None], high[:, None])
    span = np.where(right > left, right - left, 1.0)
    slope = (q[:, 1:] - q[:, :-1]) / span
    middle = q[:, :-1] + slope * ((a + b) / 2 - left)
    area = ((b - a) * middle).sum(axis=1)
    area += (high - np.clip(c[:, -1], low, high)) * q[:, -1]
    width = high - low
    return np.where(width > 0, area / np.where(width > 0, width, 1.0), np.nan)
