"""How much of what could be gained a router gains: IBC lift and the share of the oracle gap.

IBC, the incremental benefit per cost, is AutoMix's (Aggarwal et al., arXiv 2310.12963, section 4):
    IBC = (quality - quality_small) / (cost - cost_small)
    lift = (IBC - IBC_base) / IBC_base,  IBC_base that of always asking the large model
"""

from __future__ import annotations

import math


def ibc_lift(
    quality: float,
    cost: float,
    small: tuple[float, float],
    large: tuple[float, float],
) -> float:
    """Gain per extra cost, relative to that of the large model; 0 on the line between the two.

    NaN where it has no meaning: nothing more is spent than by the small model, or the large one is
    not dearer and better.

    Args:
        quality, cost: means of the method, cost in USD per query, everything it ran included.
        small, large: (quality, cost) of the two models alone.

    Example:
        >>> round(ibc_lift(0.8, 2.0, small=(0.6, 1.0), large=(0.9, 4.0)), 3)
        1.0
    """
    gain, price = large[0] - small[0], large[1] - small[1]
    if cost <= small[1] or gain <= 0 or price <= 0:
        return math.nan
    base = gain / price
    return ((quality - small[0]) / (cost - small[1]) - base) / base


def oracle_gap_closed(quality: float, best_single: float, oracle: float) -> float:
    """(quality - best single) / (oracle - best single); NaN where the oracle gains nothing.

    Example:
        >>> oracle_gap_closed(0.75, best_single=0.5, oracle=1.0)
        0.5
    """
    gap = oracle - best_single
    return (quality - best_single) / gap if gap > 0 else math.nan
