"""Ridge regression of many outputs with unknown cells, its penalty by leave-one-out error.

Outputs that are known on the same rows share one eigendecomposition, and so do all regressions on
one `Design`. The leave-one-out residual is exact: (y - fit) / (1 - leverage) (Hastie, Tibshirani
and Friedman, The Elements of Statistical Learning, 2nd ed., eq. 7.52).

Shape letters: Q rows, D columns of the design, M outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray

PENALTIES = tuple(float(p) for p in np.logspace(-1.0, 5.0, 13))


@dataclass(frozen=True)
class Ridge:
    """A fitted regression y = x @ coef + intercept.

    Attributes:
        coef: `[D, M]`.
        intercept: `[M]`.
        noise: `[M]` leave-one-out root mean squared error.
        held_out: `[Q, M]` leave-one-out predictions; the plain one on a row where the output is
            unknown.
        axes, values, center: `[D, D]`, `[D]`, `[D]`: the variance of the fitted mean at x is
            noise^2 sum(((x - center) @ axes)^2 / (values + penalty)) beside that of the intercept,
            for the rows that most outputs share.
        counts: `[M]` rows on which each output is known.
        penalty: the chosen one.
    """

    coef: FloatArray
    intercept: FloatArray
    noise: FloatArray
    held_out: FloatArray
    axes: FloatArray
    values: FloatArray
    center: FloatArray
    counts: FloatArray
    penalty: float


class Design:
    """The rows `[Q, D]` on which several outputs are regressed; remembers its decompositions."""

    def __init__(self, rows: NDArray[np.floating]) -> None:
        self.rows = np.asarray(rows, np.float64)
        self._spectra: dict[bytes, Spectrum] = {}

    def spectrum(self, known: BoolArray) -> Spectrum:
        """Decomposition of the rows where `known` `[Q]` holds."""
        key = np.packbits(known).tobytes()
        if key not in self._spectra:
            self._spectra[key] = Spectrum(self.rows, np.flatnonzero(known))
        return self._spectra[key]


class Spectrum:
    """Eigendecomposition of some rows of a design, centred."""

    def __init__(self, rows: FloatArray, index: NDArray[np.intp]) -> None:
        self.index = index
        chosen = rows if index.size == len(rows) else rows[index]
        self.center: FloatArray = chosen.mean(axis=0)
        centred = chosen - self.center
        values, self.axes = np.linalg.eigh(centred.T @ centred)
        self.values: FloatArray = np.maximum(values, 0.0)
        self.rotated: FloatArray = centred @ self.axes

    def residual(self, y: FloatArray, moment: FloatArray, penalty: float) -> FloatArray:
        """Leave-one-out residual of centred outputs `y`, whose `moment` is rotated.T @ y."""
        weight = 1.0 / (self.values + penalty)
        fitted = self.rotated @ (weight[:, None] * moment)
        leverage = np.einsum("qd,qd,d->q", self.rotated, self.rotated, weight)
        leverage += 1.0 / self.index.size
        return np.asarray((y - fitted) / np.maximum(1.0 - leverage, 1e-6)[:, None], np.float64)


def fit_ridge(
    design: Design, targets: FloatArray, penalties: tuple[float, ...] = PENALTIES
) -> Ridge:
    """Regress `targets` `[Q, M]`, NaN where unknown, on `design`, with one penalty for all.

    An output without a known cell gets zero coefficients.
    """
    known = np.isfinite(targets)
    groups = [_Group(design, targets, outputs) for outputs in _patterns(known)]
    errors = [sum(float((g.residual(p) ** 2).sum()) for g in groups) for p in penalties]
    best = penalties[int(np.argmin(errors))]
    shape = (design.rows.shape[1], targets.shape[1])
    coef, intercept, noise = np.zeros(shape), np.zeros(shape[1]), np.ones(shape[1])
    for group in groups:
        coef[:, group.outputs], intercept[group.outputs] = group.solve(best)
    held_out = design.rows @ coef + intercept
    for group in groups:
        residual, cells = group.residual(best), np.ix_(group.spectrum.index, group.outputs)
        held_out[cells] = targets[cells] - residual
        noise[group.outputs] = np.sqrt((residual**2).mean(axis=0))
    widest = max(groups, key=lambda g: g.spectrum.index.size).spectrum
    return Ridge(
        coef=coef,
        intercept=intercept,
        noise=noise,
        held_out=held_out,
        axes=widest.axes,
        values=widest.values,
        center=widest.center,
        counts=known.sum(axis=0).astype(np.float64),
        penalty=best,
    )


class _Group:
    """Outputs that are known on the same rows."""

    def __init__(self, design: Design, targets: FloatArray, outputs: NDArray[np.intp]) -> None:
        self.outputs = outputs
        self.spectrum = design.spectrum(np.isfinite(targets[:, outputs[0]]))
        y = targets[np.ix_(self.spectrum.index, outputs)]
        self.level: FloatArray = y.mean(axis=0)
        self.y: FloatArray = y - self.level
        self.moment: FloatArray = self.spectrum.rotated.T @ self.y

    def residual(self, penalty: float) -> FloatArray:
        return self.spectrum.residual(self.y, self.moment, penalty)

    def solve(self, penalty: float) -> tuple[FloatArray, FloatArray]:
        coef = self.spectrum.axes @ (self.moment / (self.spectrum.values + penalty)[:, None])
        return coef, self.level - self.spectrum.center @ coef


def _patterns(known: BoolArray) -> list[NDArray[np.intp]]:
    """Outputs grouped by the rows on which they are known; those never known are left out."""
    groups: dict[bytes, list[int]] = {}
    for output, column in enumerate(np.packbits(known, axis=0).T):
        groups.setdefault(column.tobytes(), []).append(output)
    return [np.array(g, np.intp) for g in groups.values() if known[:, g[0]].any()]
