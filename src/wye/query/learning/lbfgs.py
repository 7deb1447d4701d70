"""Minimising a smooth loss of named arrays by L-BFGS, its weight decay chosen on held-out rows.

For losses whose gradient is easily written down: no PyTorch, no learning rate, the same result
whatever the order of rows. Source: Liu and Nocedal, Mathematical Programming 45, 1989, by SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray

Arrays = dict[str, FloatArray]
Loss = Callable[[Arrays], tuple[float, Arrays]]
# Of (rows, arrays): mean loss over the rows, and its gradient.
LossOfRows = Callable[[NDArray[np.intp], Arrays], tuple[float, Arrays]]
HELD_OUT = 5


def minimise(
    start: Mapping[str, FloatArray], loss: Loss, *, rounds: int = 100, tolerance: float = 1e-6
) -> Arrays:
    """The arrays at which `loss` is least, from `start`.

    Args:
        start: where each array begins; shapes stay.
        loss: of the arrays: the value and its gradient by the same names.
        rounds: iterations at most.
        tolerance: relative fall of the loss in one iteration below which it ends.

    Example:
        >>> def square(a):
        ...     return float(((a["x"] - 3) ** 2).sum()), {"x": 2 * (a["x"] - 3)}
        >>> minimise({"x": np.zeros(2)}, square)["x"].round(4).tolist()
        [3.0, 3.0]
    """
    from scipy.optimize import minimize

    names = list(start)
    shapes = [start[n].shape for n in names]
    ends = np.cumsum([start[n].size for n in names])[:-1]

    def unpack(flat: FloatArray) -> Arrays:
        parts = np.split(flat, ends)
        return {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}

    def flat_loss(flat: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = loss(unpack(flat))
        return value, np.concatenate([gradient[n].ravel() for n in names])

    first = np.concatenate([np.asarray(start[n], np.float64).ravel() for n in names])
    found = minimize(
        flat_loss,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": rounds, "ftol": tolerance},
    )
    return unpack(np.asarray(found.x, np.float64))


def minimise_penalised(
    start: Mapping[str, FloatArray],
    loss: LossOfRows,
    n_rows: int,
    *,
    decayed: Sequence[str],
    penalties: Sequence[float],
    seed: int,
    rounds: int = 100,
) -> tuple[Arrays, float]:
    """The arrays at which loss + penalty / 2 |decayed|^2 is least over all rows, and the penalty.

    Of several penalties the one whose arrays have the least loss on a held-out fifth is taken.

    Args:
        start: where each array begins.
        loss: mean loss over given rows, without penalty, and its gradient.
        n_rows: rows that there are.
        decayed: names of the arrays that are pulled to zero.
        penalties: candidates, above 0.
        seed: of the held-out rows.
        rounds: iterations at most, for each fit.
    """

    def fit(rows: NDArray[np.intp], begin: Mapping[str, FloatArray], penalty: float) -> Arrays:
        def penalised(arrays: Arrays) -> tuple[float, Arrays]:
            value, gradient = loss(rows, arrays)
            for name in decayed:
                value += penalty / 2 * float((arrays[name] ** 2).sum())
                gradient[name] = gradient[name] + penalty * arrays[name]
            return value, gradient

        return minimise(begin, penalised, rounds=rounds)

    every = np.arange(n_rows)
    best = max(penalties)
    if len(penalties) > 1 and n_rows >= 2 * HELD_OUT:
        order = np.random.default_rng(seed).permutation(n_rows)
        unseen, seen = np.sort(order[: n_rows // HELD_OUT]), np.sort(order[n_rows // HELD_OUT :])
        errors: dict[float, float] = {}
        fits: dict[float, Arrays] = {}
        at: Mapping[str, FloatArray] = start
        # From strong to weak, each fit begins where the last one ended.
        for penalty in sorted(penalties, reverse=True):
            at = fits[penalty] = fit(seen, at, penalty)
            errors[penalty] = loss(unseen, fits[penalty])[0]
        best = min(errors, key=lambda p: errors[p])
        start = fits[best]
    return fit(every, start, best), best
