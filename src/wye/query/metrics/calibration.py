"""How far predicted quality is from what came out: ECE and Brier score.

Shape letters: Q queries, M models, B draws, K bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.resample import Resample

BINS = 15


def brier(predicted: FloatArray, quality: FloatArray, draws: Resample) -> FloatArray:
    """`[B]` mean of (predicted - quality)^2 over all pairs (Brier 1950); `[Q, M]` both."""
    return draws.mean(((predicted - quality) ** 2).mean(axis=1))


def expected_calibration_error(
    predicted: FloatArray, quality: FloatArray, draws: Resample
) -> FloatArray:
    """`[B]` ECE with 15 bins of equal width over all pairs of query and model.

    ECE = sum_k n_k / n |mean predicted in bin k - mean quality in bin k| (Guo et al. 2017, arXiv
    1706.04599, equation 3), with the share of right answers replaced by the mean quality.

    Args:
        predicted, quality: `[Q, M]`, 0 to 1.
    """
    n_queries, n_models = predicted.shape
    at = np.clip((predicted * BINS).astype(np.intp), 0, BINS - 1)
    cell = (np.arange(n_queries)[:, None] * BINS + at).ravel()
    gap: FloatArray = np.bincount(cell, (predicted - quality).ravel(), n_queries * BINS).astype(
        np.float64
    )
    # n_k cancels: n_k |mean gap| is the absolute value of the bin's summed gap.
    summed = draws.mean(gap.reshape(n_queries, BINS))
    error: FloatArray = np.abs(summed).sum(axis=1) / n_models
    return error
