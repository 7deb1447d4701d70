"""pass@k: the chance that one of k samples passes, from n samples of which c pass.

Source: Chen et al. 2021, arXiv 2107.03374, equation 1:  1 - C(n - c, k) / C(n, k), unbiased.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from wye.query.base import FloatArray, RouterError


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> FloatArray:
    """Estimate for each task.

    Args:
        n: samples of each task, any shape.
        c: how many of them pass, 0 to n.
        k: 1 to the least n.

    Raises:
        RouterError: a number is out of range.

    Example:
        >>> pass_at_k([20, 20], [0, 5], 1).round(6).tolist()
        [0.0, 0.25]
    """
    from scipy.special import gammaln

    samples, right = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(c, np.float64))
    if k < 1 or not ((samples >= k) & (right >= 0) & (right <= samples)).all():
        raise RouterError(f"n={n!r}, c={c!r}, k={k}; expected 1 <= k <= n and 0 <= c <= n")
    wrong = samples - right
    certain = wrong < k
    # Where no sample passes both fractions are one expression, so that the estimate is exactly 0.
    fewer = gammaln(wrong + 1) - gammaln(np.where(certain, 0.0, wrong - k) + 1)
    whole = gammaln(samples + 1) - gammaln(samples - k + 1)
    return np.where(certain, 1.0, np.abs(np.expm1(fewer - whole)))
