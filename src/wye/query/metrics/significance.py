"""Is a difference more than chance, when many routers are looked at?

A difference has a paired bootstrap (`metrics.resample`: the same draws of queries for a router and
for what it is compared with). Its two-sided p value takes the bootstrap's standard error and normal
tails, p = 2 Phi(-|d| / se): correcting for many routers asks for tails that a thousand draws do not
reach. Holm (Scandinavian Journal of Statistics 6, 1979) corrects for how many differences are
tested at once, whatever their dependence.

Shape letters: B draws (row 0: the data as they are), N tests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.query.base import FloatArray


def paired_p(difference: FloatArray) -> float:
    """Two-sided p value of a difference `[B]` on every draw; NaN where it is not known.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> paired_p(np.append(1.96, rng.normal(1.96, 1.0, 4000))) < 0.06
        True
    """
    value = float(difference[0])
    draws = difference[1:][np.isfinite(difference[1:])]
    if not math.isfinite(value) or draws.size < 2:
        return math.nan
    error = float(draws.std(ddof=1))
    if error == 0.0:
        return 1.0 if value == 0.0 else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2.0))


def holm(p: FloatArray) -> FloatArray:
    """`[N]` p values corrected so that the chance of any false finding is as said; NaN stays NaN.

    Sorted, p_(i) becomes max over j <= i of (N - j + 1) p_(j), at most 1.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected
