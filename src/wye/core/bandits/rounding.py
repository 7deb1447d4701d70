"""Dependent rounding: from shares in [0, 1] to a set that keeps every share and the set's size.

Two fractional shares move against each other, a + b staying, until one of them is 0 or 1; which of
the two ways they move is drawn so that both keep their expectation. The last one left is rounded by
a coin (Gandhi, Khuller, Parthasarathy and Srinivasan, Journal of the ACM 53, 2006, section 2). The
size of the set is the sum of the shares, rounded down or up.

Shape letters: M targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wye.core.bandits.base import BanditError, Floats

# Shares this close to 0 or 1 are rounding errors of a linear programme.
_CLOSE = 1e-9
# The law of a set has up to 2^F branches for F fractional shares.
MOST_FRACTIONAL = 16


def dependent_rounding(shares: Floats, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a set, booleans `[M]`, in which m is with probability `shares[m]`.

    Args:
        shares: `[M]`, each in [0, 1].
        generator: of the coins.

    Raises:
        BanditError: a share out of range.

    Example:
        >>> chosen = dependent_rounding(np.array([1.0, 0.5, 0.5]), np.random.default_rng(0))
        >>> bool(chosen[0]), int(chosen.sum())
        (True, 2)
    """
    current = _checked(shares)
    while True:
        steps = _steps(current)
        if not steps:
            return np.asarray(current > 0.5, np.bool_)
        (first, chance), (second, _) = steps
        current = first if generator.random() < chance else second


def rounding_law(shares: Floats) -> dict[tuple[int, ...], float]:
    """Probability of every set that `dependent_rounding` can draw, by its members in order.

    Raises:
        BanditError: a share out of range, or more than 16 fractional ones.

    Example:
        >>> rounding_law(np.array([1.0, 0.25, 0.75]))
        {(0, 1): 0.25, (0, 2): 0.75}
    """
    current = _checked(shares)
    fractional = int(((current > 0.0) & (current < 1.0)).sum())
    if fractional > MOST_FRACTIONAL:
        raise BanditError(
            f"{fractional} shares are fractional; the law is written out for {MOST_FRACTIONAL} "
            "at most"
        )
    law: dict[tuple[int, ...], float] = {}
    for members, chance in _branches(current, 1.0):
        law[members] = law.get(members, 0.0) + chance
    return dict(sorted(law.items()))


def _branches(shares: Floats, chance: float) -> Iterator[tuple[tuple[int, ...], float]]:
    steps = _steps(shares)
    if not steps:
        yield tuple(np.flatnonzero(shares > 0.5).tolist()), chance
    for after, part in steps:
        if part > 0.0:
            yield from _branches(after, chance * part)


def _steps(shares: Floats) -> list[tuple[Floats, float]]:
    """The two ways on from here and their chances; nothing where all shares are 0 or 1."""
    fractional = np.flatnonzero((shares > 0.0) & (shares < 1.0))
    if not fractional.size:
        return []
    a = int(fractional[0])
    if fractional.size == 1:
        return [
            (_moved(shares, {a: 1.0}), float(shares[a])),
            (_moved(shares, {a: 0.0}), 1.0 - float(shares[a])),
        ]
    b = int(fractional[1])
    up, down = min(1.0 - shares[a], shares[b]), min(shares[a], 1.0 - shares[b])
    raised = _moved(shares, {a: shares[a] + up, b: shares[b] - up})
    lowered = _moved(shares, {a: shares[a] - down, b: shares[b] + down})
    chance = float(down / (up + down))
    return [(raised, chance), (lowered, 1.0 - chance)]


def _moved(shares: Floats, changed: dict[int, float]) -> Floats:
    after = shares.copy()
    for position, value in changed.items():
        after[position] = _snapped(np.array([value]))[0]
    return after


def _checked(shares: Floats) -> Floats:
    given = np.asarray(shares, np.float64)
    if given.ndim != 1 or not bool(((given >= -_CLOSE) & (given <= 1.0 + _CLOSE)).all()):
        raise BanditError(f"shares are {shares!r}, expected numbers from 0 to 1 of shape [M]")
    return _snapped(given)


def _snapped(shares: Floats) -> Floats:
    snapped = np.where(shares < _CLOSE, 0.0, shares)
    return np.where(snapped > 1.0 - _CLOSE, 1.0, snapped)
