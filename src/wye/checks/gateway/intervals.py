"""How far a simulated rate may be from the true one: exact 95% intervals of counts."""

from __future__ import annotations

from scipy import stats

_TAIL = 0.025


def of_share(count: int, runs: int) -> tuple[float, float]:
    """Bounds on a probability that came true `count` times in `runs` (Clopper and Pearson 1934).

    Example:
        >>> low, high = of_share(0, 100)
        >>> low, round(high, 3)
        (0.0, 0.036)
    """
    low = stats.beta.ppf(_TAIL, count, runs - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - _TAIL, count + 1, runs - count) if count < runs else 1.0
    return float(low), float(high)


def of_count(count: int) -> tuple[float, float]:
    """Bounds on the mean of a Poisson count (Garwood 1936).

    Example:
        >>> low, high = of_count(0)
        >>> low, round(high, 2)
        (0.0, 3.69)
    """
    low = stats.chi2.ppf(_TAIL, 2 * count) / 2 if count else 0.0
    return float(low), float(stats.chi2.ppf(1 - _TAIL, 2 * count + 2) / 2)
