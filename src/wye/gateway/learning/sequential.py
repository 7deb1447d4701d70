"""Differences of means that may be looked at at any time: a mixture sequential test.

Two arms, means m1 and m0 of n1 and n0 units. Where the arm of a unit does not depend on the
outcomes, the difference d = m1 - m0 with variance V = s1^2/n1 + s0^2/n0 moves like Brownian motion
in the information 1/V (Jennison and Turnbull 2000, "Group Sequential Methods", chapter 3), so the
normal mixture of Robbins (1970, "Statistical methods related to the law of the iterated
logarithm") gives a likelihood ratio that is a martingale under no difference:

    L = sqrt(V / (V + t^2)) exp(d^2 t^2 / (2 V (V + t^2)))

By Ville's inequality it exceeds 1/alpha at any time with probability at most alpha: p = min(1, 1/L)
is an always-valid p-value, and { theta : L(d - theta) < 1/alpha } a confidence sequence,

    |d - theta| < sqrt(2 V (V + t^2) / t^2 x log(sqrt((V + t^2) / V) / alpha))

(Johari, Pekelis and Walsh 2015, "Always valid inference", arXiv 1512.04922). The variances are
estimated, which makes it asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, arXiv
2103.06476), so nothing is concluded before each arm has a least number of units. The width t of the
mixture is a fixed share of the standard deviation of one unit: it says at which size of a
difference the test is quickest, and does not touch its validity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The test is quickest for differences of this many standard deviations of a unit.
_MIXTURE = 0.2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sums:
    """Count, sum and sum of squares of what the units of an arm gave."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """None without a unit."""
        return self.total / self.count if self.count else None

    @property
    def variance(self) -> float:
        """Of one unit, unbiased; 0 below two units."""
        if self.count < 2:
            return 0.0
        spread = self.squares - self.total * self.total / self.count
        # Of values that are all alike nothing is left but the rounding of their sums.
        return spread / (self.count - 1) if spread > _ROUNDING * self.squares else 0.0


@dataclass(frozen=True)
class Difference:
    """Candidate less control.

    Attributes:
        metric: what was compared.
        estimate: difference of the means; None where an arm has no unit.
        low, high: bounds that hold at all times together with probability 1 - alpha; None where
            nothing can be said yet.
        p: always valid; 1 where nothing can be said yet.
    """

    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    p: float


def difference(
    metric: str, candidate: Sums, control: Sums, *, alpha: float, least: int
) -> Difference:
    """The difference of two arms, with bounds and a p-value that hold whenever one looks.

    Args:
        alpha: probability that the bounds ever miss the true difference.
        least: units of each arm before anything is concluded.

    Example:
        >>> found = difference("quality", Sums(500, 400, 400), Sums(500, 300, 300),
        ...                    alpha=0.05, least=30)
        >>> round(found.estimate, 2), found.low > 0, found.p < 0.001
        (0.2, True, True)
    """
    first, second = candidate.mean, control.mean
    if first is None or second is None:
        return Difference(metric, None, None, None, 1.0)
    estimate = first - second
    variance, mixture = _variances(candidate, control)
    if min(candidate.count, control.count) < least or variance <= 0.0:
        return Difference(metric, estimate, None, None, 1.0)
    wide = variance + mixture
    log_ratio = 0.5 * math.log(variance / wide) + estimate**2 * mixture / (2 * variance * wide)
    radius = math.sqrt(
        2 * variance * wide / mixture * (0.5 * math.log(wide / variance) - math.log(alpha))
    )
    return Difference(
        metric, estimate, estimate - radius, estimate + radius, min(1.0, math.exp(-log_ratio))
    )


def _variances(candidate: Sums, control: Sums) -> tuple[float, float]:
    """Variance of the difference, and of the mixture.

    The variance of a unit is taken about the mean of both arms: no less than that within the arms,
    and above 0 also where each arm went all alike, but not as the other, the clearest case there
    is. Where the arms' own variances say more, they count.
    """
    units = candidate.count + control.count
    both = Sums(
        units, candidate.total + control.total, candidate.squares + control.squares
    ).variance
    own = candidate.variance / candidate.count + control.variance / control.count
    return max(own, both * _harmonic(candidate, control)), _MIXTURE**2 * both


def _harmonic(candidate: Sums, control: Sums) -> float:
    return 1.0 / candidate.count + 1.0 / control.count
