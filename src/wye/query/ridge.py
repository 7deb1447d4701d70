"""Ridge regression of many outputs with unknown cells, its penalty by leave-one-out error.

Outputs that are known on the same rows share one eigendecomposition. The leave-one-out residual is
exact: (y - fit) / (1 - leverage) (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, 2nd ed., eq. 7.52).

Shape letters: Q rows, D columns of the design, M outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray

PENALTIES = tuple(float(p) for p in np.logspace(-1.0, 5.0, 13))


@dataclass(frozen=True)
class Ridge:
    """A fitted regression y = x @ coef + intercept.

    Attributes:
        coef: `[D, M]`.
        intercept: `[M]`.
        noise: `[M]` leave-one-out root mean squared error.
        root: `[D, D]`, and `center` `[D]`: the variance of the fitted mean at x is
            noise^2 (1 / n + |(x - center) @ root|^2), of the rows that most outputs share.
        counts: `[M]` rows on which each output is known.
        penalty: the chosen one.
        error: mean squared leave-one-out error over all known cells at that penalty.
    """

    coef: FloatArray
    intercept: FloatArray
    noise: FloatArray
    root: FloatArray
    center: FloatArray
    counts: FloatArray
    penalty: float
    error: float


def fit_ridge(
    design: NDArray[np.floating], targets: FloatArray, penalties: tuple[float, ...] = PENALTIES
) -> Ridge:
    """Regress `targets` `[Q, M]`, NaN where unknown, on `design` `[Q, D]`, one penalty for all.

    An output without a known cell gets zero coefficients.
    """
    x = np.asarray(design, np.float64)
    known = np.isfinite(targets)
    patterns, owner = _patterns(known)
    groups = [
        _Group(x, targets, patterns[:, g], np.flatnonzero(owner == g))
        for g in range(patterns.shape[1])
    ]
    groups = [g for g in groups if g.rows.size]
    errors = [sum(g.error(p) for g in groups) for p in penalties]
    best = penalties[int(np.argmin(errors))]
    coef = np.zeros((x.shape[1], targets.shape[1]))
    intercept = np.zeros(targets.shape[1])
    noise = np.ones(targets.shape[1])
    for group in groups:
        coef[:, group.outputs], intercept[group.outputs], noise[group.outputs] = group.solve(best)
    widest = max(groups, key=lambda g: g.rows.size)
    return Ridge(
        coef=coef,
        intercept=intercept,
        noise=noise,
        root=widest.axes / np.sqrt(widest.spectrum + best),
        center=widest.center,
        counts=known.sum(axis=0).astype(np.float64),
        penalty=best,
        error=float(min(errors) / max(1, known.sum())),
    )


def _patterns(known: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Distinct columns of `known` `[Q, P]`, and which of them each output has `[M]`."""
    if known.all():
        return known[:, :1], np.zeros(known.shape[1], np.intp)
    packed = np.ascontiguousarray(np.packbits(known, axis=0).T)
    keys: dict[bytes, int] = {}
    owner = np.array([keys.setdefault(row.tobytes(), len(keys)) for row in packed], np.intp)
    first = np.array([int(np.argmax(owner == g)) for g in range(len(keys))], np.intp)
    return known[:, first], owner


class _Group:
    """Outputs that are known on the same rows."""

    def __init__(
        self,
        x: FloatArray,
        targets: FloatArray,
        pattern: NDArray[np.bool_],
        outputs: NDArray[np.intp],
    ) -> None:
        self.rows = np.flatnonzero(pattern)
        self.outputs = outputs
        if not self.rows.size:
            return
        whole = self.rows.size == x.shape[0]
        chosen = x if whole else x[self.rows]
        self.center = chosen.mean(axis=0)
        centred = chosen - self.center
        y = targets[np.ix_(self.rows, outputs)]
        self.level = y.mean(axis=0)
        self.y = y - self.level
        spectrum, self.axes = np.linalg.eigh(centred.T @ centred)
        self.spectrum = np.maximum(spectrum, 0.0)
        self.rotated = centred @ self.axes
        self.moment = self.rotated.T @ self.y
        self.squares = self.rotated**2

    def residual(self, penalty: float) -> FloatArray:
        weight = 1.0 / (self.spectrum + penalty)
        fitted = self.rotated @ (weight[:, None] * self.moment)
        leverage = self.squares @ weight + 1.0 / self.rows.size
        return np.asarray((self.y - fitted) / np.maximum(1.0 - leverage, 1e-6)[:, None], np.float64)

    def error(self, penalty: float) -> float:
        return float((self.residual(penalty) ** 2).sum())

    def solve(self, penalty: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        coef = self.axes @ (self.moment / (self.spectrum + penalty)[:, None])
        noise = np.sqrt((self.residual(penalty) ** 2).mean(axis=0))
        return coef, self.level - self.center @ coef, noise
