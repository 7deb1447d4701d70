"""How far a prediction is off the chance of success, told apart from the luck of single outcomes.

A residual is what the prediction missed plus the luck of one outcome. Luck is independent between
queries, what was missed is alike for queries that are alike, so the mean product of the residuals
of near queries is the mean square of what was missed, as far as near queries share it.

Shape letters: Q queries, M models, K neighbours, R references.
"""

from __future__ import annotations

import numpy as np

from wye.query.base import FloatArray
from wye.query.learning.inputs import QueryInputs

NEIGHBOURS = 8


def local_misfit(residual: FloatArray, inputs: QueryInputs, k: int = NEIGHBOURS) -> FloatArray:
    """`[M]` standard deviation of predicted from true quality; 0 where residuals look like luck.

    Args:
        residual: `[Q, M]` outcome minus prediction of training queries, NaN where unknown.
        inputs: of the same queries; a neighbour that is none of them does not count.
        k: neighbours of each query.
    """
    row = np.full(inputs.n_references, -1, np.intp)
    mine = np.flatnonzero(inputs.reference >= 0)
    row[inputs.reference[mine]] = mine
    near = row[inputs.neighbours.index[:, :k]]
    known = np.isfinite(residual)
    filled = np.where(known, residual, 0.0)
    product, count = np.zeros(residual.shape[1]), np.zeros(residual.shape[1])
    for column in near.T:
        pairs = np.flatnonzero(column >= 0)
        other = column[pairs]
        product += (filled[pairs] * filled[other]).sum(axis=0)
        count += (known[pairs] & known[other]).sum(axis=0)
    return np.asarray(np.sqrt(np.maximum(product, 0.0) / np.maximum(count, 1.0)), np.float64)
