"""The best set of items under a size and a budget, with shares instead of yes and no.

    maximise sum_m g_m z_m  over 0 <= z_m <= 1, sum_m z_m <= n, sum_m c_m z_m <= B

A fractional knapsack with a cardinality. At a price l of the budget the best sets are the n largest
positive g_m - l c_m. Their cost falls as l rises, only at prices where two items, or an
item and nothing, are worth the same. The least such price at which some best set is affordable is
the optimal dual variable. Of the sets that are equally good at it, two that differ in one item, one
affordable and one not, are mixed so that the budget is just spent: an exact solution, and a vertex,
since at most two shares are fractional.

Shape letters: M items.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from wye.query.base import BoolArray, FloatArray

# Figures that differ by less, relative to their size, are equal but for rounding.
_ROUNDING = 1e-12

# Gain, cost and place of an item.
Item = tuple[float, float, int]


def relaxed_set(
    gain: FloatArray,
    cost: FloatArray,
    allowed: BoolArray,
    *,
    size: int,
    budget: float,
    exact: bool = False,
) -> FloatArray:
    """Shares z `[M]` that maximise sum gain z under a size and a budget; 0 where not allowed.

    Of equally good sets the cheapest is taken. Where no set of exactly `size` fits the budget,
    fewer are taken: the cheapest.

    Args:
        gain: `[M]`, finite.
        cost: `[M]` >= 0.
        allowed: `[M]`.
        size: sum of the shares at most, or exactly.
        budget: sum of cost times share at most; may be infinite.
        exact: whether the size must be met.

    Returns:
        A vertex of the feasible set, where at most two shares are fractional.

    Example:
        >>> one = np.ones(3)
        >>> shares = relaxed_set(np.array([3.0, 2.0, 1.0]), one, one > 0, size=2, budget=1.5)
        >>> shares.round(6).tolist()
        [1.0, 0.5, 0.0]
    """
    shares = np.zeros(len(gain))
    # In units of the budget, so that it is 1 whatever the currency.
    bounded = bool(np.isfinite(budget))
    costs = cost / budget if bounded else cost
    figures = zip(gain.tolist(), costs.tolist(), range(len(gain)), strict=True)
    items = [item for item, there in zip(figures, allowed.tolist(), strict=True) if there]
    n = min(size, len(items))
    if not bounded:
        shares[next(_equally_good(items, n, exact, 0.0))[1]] = 1.0
        return shares
    cheapest = sorted(items, key=lambda item: item[1])[:n]
    if exact and sum(c for _, c, _ in cheapest) > 1.0 + _ROUNDING:
        affordable = np.cumsum([c for _, c, _ in cheapest]) <= 1.0 + _ROUNDING
        shares[[m for (_, _, m), fits in zip(cheapest, affordable, strict=True) if fits]] = 1.0
        return shares
    price = _price(items, n, exact)
    sets = _equally_good(items, n, exact, price)
    spent, taken = next(sets)
    # Without a price the budget does not bind, and the cheapest of the best sets will do.
    for dearer, other in sets if price > 0.0 else ():
        if dearer > 1.0:
            part = max(0.0, (1.0 - spent) / (dearer - spent))
            shares[[m for m in taken if m not in other]] = 1.0 - part
            shares[[m for m in other if m not in taken]] = part
            shares[[m for m in taken if m in other]] = 1.0
            return shares
        spent, taken = dearer, other
    shares[taken] = 1.0
    return shares


def _price(items: list[Item], n: int, exact: bool) -> float:
    """The least price of a budget of 1 at which some best set of `n` is affordable."""

    def affordable(price: float) -> bool:
        return next(_equally_good(items, n, exact, price))[0] <= 1.0 + _ROUNDING

    if affordable(0.0):
        return 0.0
    nothing: list[Item] = [] if exact else [(0.0, 0.0, -1)]
    pairs = ((one, other) for i, one in enumerate(items) for other in items[:i] + nothing)
    points = {(g - h) / (c - d) for (g, c, _), (h, d, _) in pairs if c != d}
    prices = sorted(p for p in points if p > 0.0)
    place: int = bisect_left(prices, True, key=affordable)
    return prices[min(place, len(prices) - 1)]


def _equally_good(
    items: list[Item], n: int, exact: bool, price: float
) -> Iterator[tuple[float, list[int]]]:
    """Cost and places of best sets at a price, from the cheapest on; one item sets two apart."""
    worth = sorted(((g - price * c, abs(g) + price * c) for g, c, _ in items), reverse=True)
    level, scale = worth[n - 1] if n else (0.0, 0.0)
    free = not exact and level <= _ROUNDING * scale
    level = 0.0 if free else level
    sure: list[int] = []
    spent = 0.0
    tied: list[tuple[float, int]] = []
    for g, c, m in items:
        above, scale = g - price * c - level, abs(g) + price * c
        if above > _ROUNDING * scale:
            sure.append(m)
            spent += c
        elif above >= -_ROUNDING * scale:
            tied.append((c, m))
    tied.sort()
    room = max(0, n - len(sure))
    if free:
        for count in range(min(room, len(tied))):
            yield _joined(spent, sure, tied[:count])
    for first in range(max(1, len(tied) - room + 1)):
        yield _joined(spent, sure, tied[first : first + room])


def _joined(
    spent: float, sure: list[int], tied: list[tuple[float, int]]
) -> tuple[float, list[int]]:
    return spent + sum(c for c, _ in tied), [*sure, *(m for _, m in tied)]
