"""How many experts each layer gets: schedules over depth at a fixed total.

With u = l / (L - 1) for layer l of L, between a smallest and a largest number of experts:
    uniform         (least + most) / 2
    descending      most - (most - least) u
    ascending       least + (most - least) u
    pyramid         least + (most - least) (1 - |2u - 1|)
    valley          most - (most - least) (1 - |2u - 1|)
    wave            least + (most - least) (1 + sin(2 pi f u)) / 2
    inverted wave   the sine negated
shifted by the constant that brings the rounded sizes (at least 1) to the budget, so that a descent
stays one; of layers that round up together, the largest take the rest one by one. Equal totals are
what makes schedules comparable; active compute may still differ.

Source: DynaMoE (arXiv 2603.01697) names the schedules; the formulas and the fixed total are ours.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from wye.moe.base import MoEError

Kind = Literal["uniform", "descending", "ascending", "pyramid", "valley", "wave", "inverted_wave"]
KINDS: tuple[str, ...] = get_args(Kind)


def expert_schedule(
    n_layers: int,
    budget: int,
    kind: Kind = "uniform",
    *,
    least: int = 1,
    most: float | None = None,
    frequency: float = 2.0,
    power: float = 1.0,
) -> tuple[int, ...]:
    """Experts of every layer, which sum to `budget`.

    Args:
        n_layers: L.
        budget: total number of experts, at least one per layer.
        kind: one of `KINDS`.
        least: experts of the smallest layer before the total is met.
        most: of the largest; by default so that the mean of both is the mean layer.
        frequency: periods of a wave over the depth, f.
        power: u is raised to it first; 2 bends a descent or ascent to a parabola.

    Returns:
        L numbers of at least 1.

    Raises:
        MoEError: an unknown kind, a budget below one expert per layer, bounds out of order.

    Example:
        >>> expert_schedule(6, 24, "descending")
        (7, 6, 5, 3, 2, 1)
    """
    _check(n_layers, budget, kind, power)
    if most is None:
        most = max(least, 2 * budget / n_layers - least)
    if not 1 <= least <= most:
        raise MoEError(f"least={least} and most={most}, expected 1 <= least <= most")
    depth = [layer / (n_layers - 1) if n_layers > 1 else 0.0 for layer in range(n_layers)]
    share = [_share(kind, u**power, frequency) for u in depth]
    return _fitted([least + (most - least) * s for s in share], budget)


def _fitted(sizes: list[float], budget: int) -> tuple[int, ...]:
    """The sizes shifted by one constant and rounded, at least 1, to a total of `budget`."""

    def shifted(by: float) -> list[int]:
        # A hair above one half, so that rounding noise never parts layers of equal size.
        return [max(1, math.floor(size + by + 0.5 + 1e-9)) for size in sizes]

    low, high = 0.5 - max(sizes), float(budget)
    while high - low > 1e-7:
        middle = (low + high) / 2
        if sum(shifted(middle)) <= budget:
            low = middle
        else:
            high = middle
    fitted, above = shifted(low), shifted(high)
    # Layers that one shift raises together take what is left, the largest first.
    raised = sorted(
        (layer for layer in range(len(sizes)) if above[layer] > fitted[layer]),
        key=lambda layer: -sizes[layer],
    )
    for layer in raised[: budget - sum(fitted)]:
        fitted[layer] += 1
    return tuple(fitted)


def _share(kind: str, u: float, frequency: float) -> float:
    """Place between least (0) and most (1) at depth `u`."""
    peak = 1 - abs(2 * u - 1)
    sine = math.sin(2 * math.pi * frequency * u)
    shares = {
        "uniform": 0.5,
        "descending": 1 - u,
        "ascending": u,
        "pyramid": peak,
        "valley": 1 - peak,
        "wave": (1 + sine) / 2,
        "inverted_wave": (1 - sine) / 2,
    }
    return shares[kind]


def _check(n_layers: int, budget: int, kind: str, power: float) -> None:
    for name, value in (("n_layers", n_layers), ("budget", budget)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MoEError(f"{name}={value!r}, expected an integer of at least 1")
    if kind not in KINDS:
        raise MoEError(f"kind={kind!r}, expected one of {KINDS}")
    if budget < n_layers:
        raise MoEError(
            f"budget={budget} for {n_layers} layers, expected at least one expert per layer"
        )
    if not power > 0:
        raise MoEError(f"power={power}, expected a number > 0")
