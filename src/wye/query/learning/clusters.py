"""Clusters of queries: k-means, and the share that each cluster has in the judgement of a query.

Vectors are of unit length; on others k-means would group by length.

Shape letters: Q queries, C clusters, D embedding width.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray

TRAINING_QUERIES = 3000
SHARPNESS = 10.0
# A cluster of fewer queries says more about chance than about its models.
LEAST_QUERIES = 10


def cluster_centers(vectors: NDArray[np.float32], count: int, seed: int) -> FloatArray:
    """`[C, D]` unit centres of k-means on unit vectors `[Q, D]`, found on 3000 of them at most.

    Args:
        vectors: `[Q, D]` unit vectors, at least `count`.
        count: C.
        seed: of the draw and of the first centres.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = np.random.default_rng(seed).permutation(len(vectors))[:TRAINING_QUERIES]
    model = KMeans(count, init="random", n_init=1, max_iter=15, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct queries than clusters leave some clusters empty, which is harmless here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centers = model.fit(vectors[np.sort(rows)]).cluster_centers_.astype(np.float64)
    length = np.linalg.norm(centers, axis=1, keepdims=True)
    return np.asarray(centers / np.where(length > 0, length, 1.0), np.float64)


def worthwhile_count(wanted: int, n_queries: int) -> int:
    """`wanted` clusters, or as many as leave ten of `n_queries` to each, one at least.

    Example:
        >>> worthwhile_count(64, 200), worthwhile_count(64, 5)
        (20, 1)
    """
    return max(1, min(wanted, n_queries // LEAST_QUERIES))


def memberships(
    vectors: NDArray[np.float32],
    centers: FloatArray,
    nearest: int,
    *,
    sharpness: float = SHARPNESS,
) -> FloatArray:
    """`[Q, C]` share of each cluster in the judgement of a query; zero but for the nearest.

    share = softmax(sharpness * cosine) over the `nearest` clusters. Between unit vectors that is
    softmax(-|e - mu|^2 / tau) with tau = 2 / sharpness.
    """
    close = vectors @ centers.T
    nearest = min(nearest, centers.shape[0])
    weight = np.exp(sharpness * (close - np.maximum.reduce(close, axis=1, keepdims=True)))
    if nearest < centers.shape[0]:
        weight *= close >= np.partition(close, -nearest, axis=1)[:, -nearest, None]
    return np.asarray(weight / np.add.reduce(weight, axis=1, keepdims=True), np.float64)
