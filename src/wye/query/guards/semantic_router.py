"""Semantic router: the nearest exemplar says the domain.

    logit_c = max over exemplars e of c of cos(x, e)        exemplars are all training texts, or the
    logit_c = cos(x, mean of c)                             mean of each domain

A guard on the best cosine (`ScoreGuard`) refuses what resembles no exemplar. Source: the baseline
of arXiv 2505.14524 after the library semantic-router.

Shape letters: Q queries, D embedding width, C domains, E exemplars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, get_embedder
from wye.query.base import FloatArray, RouterError
from wye.query.guards.base import DomainClassifier, Labels
from wye.query.guards.vectors import restored_embedder
from wye.query.learning.named_arrays import prefixed

By = Literal["centroids", "exemplars"]
_BY = ("centroids", "exemplars")


class SemanticRouter(DomainClassifier):
    """Cosine to the centroid or to the nearest exemplar of each domain; nothing is trained.

    Args:
        by: `centroids` or `exemplars`.
        most: exemplars kept of each domain, drawn at random beyond.
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        seed: of the draw.

    Raises:
        RouterError: a parameter is out of range.
    """

    kind = "semantic router"

    def __init__(
        self,
        *,
        by: By = "centroids",
        most: int = 1024,
        embedder: str | Embedder = "static",
        seed: int = 0,
    ) -> None:
        if by not in _BY or most < 1:
            raise RouterError(f"by is {by!r} and most {most}, expected one of {_BY} and 1 or more")
        self.by: By = by
        self.most = most
        self.embedder = embedder
        self.seed = seed

    def _learn(self, texts: tuple[str, ...], labels: Labels, n_domains: int) -> None:
        self.embedder_ = get_embedder(self.embedder).fit(texts)
        vectors = self.embedder_.embed(texts)
        generator = np.random.default_rng(self.seed)
        parts = []
        for domain in range(n_domains):
            own = vectors[labels == domain]
            if self.by == "centroids":
                mean = own.mean(axis=0)
                parts.append((mean / max(1e-12, float(np.linalg.norm(mean))))[None])
            else:
                parts.append(own[np.sort(generator.permutation(len(own))[: self.most])])
        self.exemplars_ = np.concatenate(parts)
        self.starts_ = np.cumsum([0, *(len(p) for p in parts[:-1])]).astype(np.intp)

    def _read(self, texts: tuple[str, ...]) -> tuple[FloatArray, NDArray[np.float32]]:
        vectors = self.embedder_.embed(texts)
        close = vectors @ self.exemplars_.T
        if not len(texts):
            return np.zeros((0, len(self.starts_))), vectors
        return np.asarray(np.maximum.reduceat(close, self.starts_, axis=1), np.float64), vectors

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Exemplars, where each domain's begin, and what the embedder learned."""
        own: dict[str, NDArray[Any]] = {"exemplars": self.exemplars_, "starts": self.starts_}
        return own | prefixed("embedder/", self.embedder_.get_state())

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.embedder_ = restored_embedder(self.embedder, arrays)
        self.exemplars_, self.starts_ = arrays["exemplars"], arrays["starts"]
