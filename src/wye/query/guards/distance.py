"""Guards that read how far the features of a query lie from those of the training queries.

    Mahalanobis   -min_c (h - mu_c)' S^-1 (h - mu_c), S shared by the domains
                  (Lee et al., NeurIPS 2018, arXiv 1807.03888)
    nearest       -distance of h / |h| to its K-th nearest training query
                  (Sun et al., ICML 2022, arXiv 2204.06507)

Ours: the covariance is shrunk (Ledoit and Wolf, 2004), since H is often larger than Q; at most 4096
training queries are kept as neighbours.

Shape letters: Q queries, C domains, H features, R references, K neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.guards.base import Labels, Reading, ThresholdGuard

MOST_REFERENCES = 4096


class MahalanobisGuard(ThresholdGuard):
    """Rejects what is far from the mean of every domain, in units of the spread around it."""

    kind = "mahalanobis"

    def _learn(self, training: Reading, labels: Labels) -> None:
        from sklearn.covariance import ledoit_wolf

        features = training.features.astype(np.float64)
        classes = np.unique(labels)
        means = np.stack([features[labels == c].mean(axis=0) for c in classes])
        centred = features - means[np.searchsorted(classes, labels)]
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        # A feature that never varies would have no spread to divide by.
        floor = 1e-6 * max(1e-12, float(np.trace(covariance)) / len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        self.whiten_ = (vectors / np.sqrt(np.maximum(values, floor))).astype(np.float32)
        self.means_ = (means @ self.whiten_).astype(np.float32)

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` minus the squared distance to the nearest mean."""
        white = reading.features @ self.whiten_
        squared = (
            (white**2).sum(axis=1)[:, None]
            - 2.0 * white @ self.means_.T
            + (self.means_**2).sum(axis=1)
        )
        return np.asarray(-squared.min(axis=1, initial=np.inf), np.float64)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Threshold, whitening and means."""
        return super().get_state() | {"whiten": self.whiten_, "means": self.means_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.whiten_, self.means_ = arrays["whiten"], arrays["means"]


class NearestGuard(ThresholdGuard):
    """Rejects what is far from its K-th nearest training query.

    Args:
        k: K.
        seed: of the training queries that are kept, where there are many.
        eps, tau: see `ThresholdGuard`.
    """

    kind = "nearest"

    def __init__(
        self, *, k: int = 10, seed: int = 0, eps: float = 0.05, tau: float | None = None
    ) -> None:
        super().__init__(eps=eps, tau=tau)
        if k < 1:
            raise RouterError(f"k is {k}, expected 1 or more")
        self.k = k
        self.seed = seed

    def _learn(self, training: Reading, labels: Labels) -> None:
        del labels
        rows = np.random.default_rng(self.seed).permutation(len(training))[:MOST_REFERENCES]
        self.references_ = _unit(training.features[np.sort(rows)])

    def confidence(self, reading: Reading) -> FloatArray:
        """`[Q]` minus the Euclidean distance, 0 to -2."""
        cosine = _unit(reading.features) @ self.references_.T
        k = min(self.k, cosine.shape[1])
        kth = np.partition(cosine, cosine.shape[1] - k, axis=1)[:, cosine.shape[1] - k]
        return -np.sqrt(np.maximum(2.0 - 2.0 * kth.astype(np.float64), 0.0))

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Threshold and references."""
        return super().get_state() | {"references": self.references_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.references_ = arrays["references"]


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)
