"""Several softmax classifiers on the same columns, fitted together on soft labels.

    p_qhl = softmax_l(x_q . coef_hl + intercept_hl)
    loss = -sum_qhl y_qhl log p_qhl + penalty / 2 (|coef|^2 + |intercept - prior|^2)

The prior of an intercept is the logarithm of the label's smoothed share, so that a label never seen
stays finite and a head without outcomes says what is usual. The loss is convex: the fit does not
depend on a seed. L-BFGS by SciPy (Liu and Nocedal, Mathematical Programming 45, 1989).

Shape letters: Q queries, D columns, H heads, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

MOST_ITERATIONS = 200


@dataclass(frozen=True)
class SoftmaxHeads:
    """Fitted heads.

    Attributes:
        coef: `[D, H, L]`.
        intercept: `[H, L]`.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float32]

    def probabilities(self, columns: NDArray[np.float32]) -> FloatArray:
        """`[Q, H, L]` for columns `[Q, D]`; the labels of a head sum to one."""
        n, heads, labels = len(columns), *self.intercept.shape
        logits = (columns @ self.coef.reshape(-1, heads * labels)).reshape(n, heads, labels)
        return np.asarray(np.exp(_log_softmax(logits + self.intercept)), np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The heads as arrays, to be stored."""
        return {"coef": self.coef, "intercept": self.intercept}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SoftmaxHeads:
        """What `arrays` returned."""
        return cls(arrays["coef"], arrays["intercept"])


def fit_softmax_heads(
    columns: NDArray[np.float32], targets: FloatArray, *, penalty: float = 1.0
) -> SoftmaxHeads:
    """The heads of least loss.

    Args:
        columns: `[Q, D]`.
        targets: `[Q, H, L]` probability of each label, NaN for a head that learns nothing of a
            query.
        penalty: on the squared weights, in outcomes.

    Raises:
        RouterError: shapes differ, a target is no distribution, or the penalty is not positive.

    Example:
        >>> x = np.array([[-1.0], [1.0]], np.float32)
        >>> y = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> heads = fit_softmax_heads(x, y, penalty=0.01)
        >>> bool(heads.probabilities(x)[0, 0, 0] > 0.9)
        True
    """
    from scipy.optimize import minimize

    if targets.ndim != 3 or targets.shape[0] != columns.shape[0]:
        raise RouterError(
            f"targets have shape {targets.shape}, expected [Q, H, L] with Q = {columns.shape[0]}"
        )
    if not penalty > 0:
        raise RouterError(f"penalty is {penalty}, expected a positive number")
    known = np.asarray(np.isfinite(targets).all(axis=2), np.bool_)
    y = np.where(known[:, :, None], targets, 0.0)
    if (y < 0).any() or not np.allclose(y.sum(axis=2), known, atol=1e-6):
        raise RouterError("targets of a head must be probabilities that sum to 1, or all NaN")
    width, (_, n_heads, n_labels) = columns.shape[1], targets.shape
    seen = y.sum(axis=0)
    smoothed = (seen + 1.0 / n_labels) / (seen.sum(axis=1, keepdims=True) + 1.0)
    prior = np.log(smoothed)
    x, soft, weight = columns.astype(np.float32), y.astype(np.float32), known[:, :, None]
    cells = n_heads * n_labels

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        values = flat.reshape(width + 1, cells)
        coef, shift = values[:width].astype(np.float32), values[width] + prior.ravel()
        logits = (x @ coef).reshape(-1, n_heads, n_labels)
        log_p = _log_softmax(logits + shift.reshape(n_heads, n_labels).astype(np.float32))
        error = np.where(weight, np.exp(log_p), np.float32(0)) - soft
        flat_error = error.reshape(-1, cells)
        gradient = penalty * values
        gradient[:width] += x.T @ flat_error
        gradient[width] += flat_error.sum(axis=0, dtype=np.float64)
        value = -float(np.vdot(soft, log_p)) + 0.5 * penalty * float(flat @ flat)
        return value, gradient.ravel()

    found = minimize(
        loss,
        np.zeros((width + 1) * cells),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_ITERATIONS, "ftol": 1e-7, "gtol": 1e-4},
    ).x.reshape(width + 1, cells)
    return SoftmaxHeads(
        found[:width].reshape(width, n_heads, n_labels).astype(np.float32),
        (found[width].reshape(n_heads, n_labels) + prior).astype(np.float32),
    )


def _log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
