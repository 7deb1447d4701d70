"""Which positions lose their experts where capacity is limited.

Source: drop-towards-the-end, OpenMoE (arXiv 2402.01739, section 4). Shape letters: S tokens,
L length, K choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.core import Plan
from wye.moe.base import MoEError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DropsByPosition:
    """Share of the choices that found no place, along the sequence.

    Attributes:
        start: `[bins]` first position of each bin.
        share: `[bins]` dropped choices over all choices.
        total: over all positions.
        slope: of a straight line through the bins, share per position.
        last_less_first: share in the last quarter of the positions less that in the first.
    """

    start: NDArray[np.int64]
    share: Floats
    total: float
    slope: float
    last_less_first: float


def drops_by_position(plan: Plan, length: int, k: int, *, bin_width: int = 64) -> DropsByPosition:
    """Where the choices of a router with fixed K are dropped.

    Args:
        plan: of S = B L tokens of whole sequences, those that kept their places alone.
        length: L.
        k: K, choices of every token before drops.
        bin_width: positions per bin.

    Raises:
        MoEError: S is no multiple of L, or a token has more than K pairs.
    """
    fan = np.asarray(plan.host().fan_out())
    if length < 1 or bin_width < 1 or plan.n_sources == 0 or plan.n_sources % length:
        raise MoEError(
            f"{plan.n_sources} tokens with length={length} and bin_width={bin_width}, expected "
            "whole sequences, at least one, and bins of at least one position"
        )
    if fan.max() > k:
        raise MoEError(f"a token has {int(fan.max())} experts, expected at most k={k}")
    lost = (k - fan).reshape(-1, length).mean(axis=0) / k
    start = np.arange(0, length, bin_width)
    share = np.add.reduceat(lost, start) / np.diff([*start, length])
    middle = start + np.diff([*start, length]) / 2
    slope = float(np.polyfit(middle, share, 1)[0]) if start.shape[0] > 1 else 0.0
    quarter = max(length // 4, 1)
    difference = float(lost[-quarter:].mean() - lost[:quarter].mean())
    return DropsByPosition(start, share, float(lost.mean()), slope, difference)
