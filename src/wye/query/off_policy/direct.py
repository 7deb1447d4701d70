"""A direct method for the doubly robust estimate, from estimates that may be off or missing.

Estimates that were logged before the outcome are honest, but a price list or a prior can be far off
the level of what came out, and a doubly robust estimate is only as quiet as its direct method is
good. Each model's estimates are moved by the mean residual of that model on the other folds, shrunk
towards 0; unknown ones are that model's mean outcome on the other folds. So no outcome has a part
in what it is compared with (cross-fitting: Chernozhukov et al. 2018, arXiv 1608.00060, section 3).

Shape letters: Q rows, M models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.logged import Floats, Ints

PRIOR_ROWS = 10.0


def cross_fitted_direct(
    estimate: Floats, chosen: Ints, outcome: Floats, parts: NDArray[np.integer]
) -> Floats:
    """`[Q, M]` the estimates, brought to the level of the outcomes of other folds.

    Args:
        estimate: `[Q, M]` expected outcomes, NaN where unknown.
        chosen: `[Q]` column of the model that each outcome is of.
        outcome: `[Q]` what came out.
        parts: `[Q]` fold of each row; equal questions belong into one fold.

    Raises:
        OffPolicyError: shapes differ, or all rows are in one fold.

    Example:
        >>> known = np.zeros((4, 1))
        >>> cross_fitted_direct(known, np.zeros(4, int), np.ones(4), np.array([0, 0, 1, 1]))[:, 0]
        array([0.16666667, 0.16666667, 0.16666667, 0.16666667])
    """
    n, n_models = estimate.shape if estimate.ndim == 2 else (-1, 0)
    if not (chosen.shape == outcome.shape == parts.shape == (n,)):
        raise OffPolicyError(
            f"estimate has shape {estimate.shape}, chosen {chosen.shape}, outcome "
            f"{outcome.shape} and parts {parts.shape}; expected [Q, M] and [Q]"
        )
    folds = np.unique(parts)
    if folds.size < 2:
        raise OffPolicyError("all rows are in one fold; cross-fitting takes two or more")
    made = np.empty((n, n_models))
    for fold in folds:
        held, rest = parts == fold, parts != fold
        made[held] = _brought(estimate[held], estimate[rest], chosen[rest], outcome[rest])
    return made


def _brought(estimate: Floats, known: Floats, chosen: Ints, outcome: Floats) -> Floats:
    """`estimate` of rows held out, moved by what the other rows' outcomes say."""
    n_models = known.shape[1]
    level = _shrunk(outcome - outcome.mean(), chosen, n_models) + outcome.mean()
    filled = np.where(np.isfinite(known), known, level)
    residual = outcome - filled[np.arange(len(outcome)), chosen]
    moved = np.where(np.isfinite(estimate), estimate, level)
    return np.asarray(moved + _shrunk(residual, chosen, n_models), np.float64)


def _shrunk(values: Floats, chosen: Ints, n_models: int) -> Floats:
    """`[M]` mean of each model's values, with `PRIOR_ROWS` rows of 0 beside them."""
    total = np.bincount(chosen, weights=values, minlength=n_models)
    return np.asarray(total / (np.bincount(chosen, minlength=n_models) + PRIOR_ROWS), np.float64)
