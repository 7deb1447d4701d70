"""Where each figure stands among all before it: p-values, uniform while nothing changes.

    p_t = (#{s < t : x_s < x_t} + U (1 + #{s < t : x_s = x_t})) / t,    U uniform on 0 to 1

While the figures are exchangeable (in any order as likely), p_1, p_2, ... are independent and
uniform, whatever their law and however many ties there are (V. Vovk, I. Nouretdinov, A. Gammerman,
Testing exchangeability on-line, ICML 2003, theorem 1). A reference counts as figures that came
before. Once `most` are kept no more are added, and the p-values are uniform up to 1 / sqrt(most).

Shape letters: N requests, J figures of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray

MOST = 20_000


class Ranks:
    """Ranks J figures of each request among those of all before it.

    Args:
        width: J.
        generator: breaks ties.
        reference: `[R, J]` figures that came before; none when not given.
        most: figures kept.
    """

    def __init__(
        self,
        width: int,
        generator: np.random.Generator,
        reference: NDArray[np.floating] | None = None,
        *,
        most: int = MOST,
    ) -> None:
        self._generator = generator
        self._most = most
        self._sorted: list[FloatArray] = [np.empty(0) for _ in range(width)]
        if reference is not None:
            self._sorted = [np.sort(column[~np.isnan(column)]) for column in reference.T]

    def take(self, figures: NDArray[np.floating]) -> FloatArray:
        """P-values `[N, J]` of figures `[N, J]`, in their order; NaN where a figure is NaN."""
        found = np.full(figures.shape, np.nan)
        for j, column in enumerate(figures.T):
            known = ~np.isnan(column)
            if known.any():
                found[known, j] = self._column(j, np.asarray(column[known], np.float64))
        return found

    def _column(self, j: int, x: FloatArray) -> FloatArray:
        kept = self._sorted[j]
        grows = len(kept) < self._most
        left, right = np.searchsorted(kept, x, "left"), np.searchsorted(kept, x, "right")
        below, same = left.astype(np.float64), (right - left).astype(np.float64)
        count = np.full(len(x), float(len(kept)))
        if grows:
            earlier = np.tri(len(x), k=-1, dtype=np.bool_)
            below += (earlier & (x[None, :] < x[:, None])).sum(axis=1)
            same += (earlier & (x[None, :] == x[:, None])).sum(axis=1)
            count += np.arange(len(x))
            self._sorted[j] = np.sort(np.concatenate([kept, x]), kind="stable")
        return (below + self._generator.random(len(x)) * (same + 1.0)) / (count + 1.0)
