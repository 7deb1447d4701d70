"""RouterDC: queries and models in one space, learned by two contrasts.

Routes a query to a model, before an answer exists, on its embedding and text features. Source: Chen
et al., RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large Language
Models, arXiv 2409.19886.

    score[q, m] = cos(h_q, k_m) / t,     h_q = x_q W,   k_m a learned vector, at first N(0, 0.78^2)
    sample-LLM:    sum over the 3 best m of q with quality above 0 of
                   -log e^score[q, m] / (e^score[q, m] + sum over the negatives n of e^score[q, n])
    sample-sample: -log e^cos(h_q, h_+)/t / (e^cos(h_q, h_+)/t + sum_H e^cos(h_q, h_-)/t)
    loss = mean_q (sample-LLM + lambda sample-sample),   lambda = 1

The negatives of a query are its 3 worst models, without those above 0.5 (and, ours, without those
that are no worse than the positive). h_+ is a query of the same k-means cluster, h_- are H = 3 of
other clusters, all drawn from the batch. Ours, where the paper trains a small language model whole:
W is a linear map of the frozen embedding to 64 dimensions, learned with rate 3e-3 until a held-out
tenth stops improving; t is 0.2; a model without outcomes gets the mean vector of the others. A
cosine becomes a quality by one logistic map for all models.

Shape letters: Q queries, M models, C clusters, B queries of a batch, D columns, F width of the
space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.clusters import cluster_centers, memberships, worthwhile_count
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, fitted_std, mean_std, model_means
from wye.query.learning.heads import require_torch, train_head
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.score_link import ScoreLink

if TYPE_CHECKING:
    from torch import Generator, Tensor

TOP, WORST, OTHERS = 3, 3, 3
GOOD = 0.5
MODEL_SPREAD = 0.78
BATCH = 64
LEARNING_RATE = 3e-3
HELD_OUT_SHARE = 0.1


class RouterDCEstimator(KeptArrays, QualityEstimator):
    """Cosines between a projected query and a vector for each model.

    Args:
        width: F, of the shared space.
        temperature: t of both contrasts.
        weight: lambda of the sample-sample contrast.
        n_clusters: of the sample-sample contrast; fewer where queries are few.
        epochs: at most so many passes over the queries.
        seed: of the first weights, the clusters and the draws.
    """

    kept: ClassVar[tuple[str, ...]] = ("encoder", "models", "std")

    def __init__(
        self,
        *,
        width: int = 64,
        temperature: float = 0.2,
        weight: float = 1.0,
        n_clusters: int = 8,
        epochs: int = 20,
        seed: int = 0,
    ) -> None:
        self.width = width
        self.temperature = temperature
        self.weight = weight
        self.n_clusters = n_clusters
        self.epochs = epochs
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn both sides of the space, then the map from cosines to quality."""
        torch = require_torch("routerdc")
        positive, negative = contrasts(quality)
        columns, clusters = torch.tensor(inputs.columns), torch.tensor(self._clusters(inputs))
        is_positive, is_negative = torch.tensor(positive), torch.tensor(negative)

        def loss(p: dict[str, Tensor], rows: Tensor, generator: Generator) -> Tensor:
            h_BF = torch.nn.functional.normalize(columns[rows] @ p["encoder"], dim=1)
            k_MF = torch.nn.functional.normalize(p["models"], dim=1)
            scores_BM = h_BF @ k_MF.T / self.temperature
            value = sample_llm_loss(scores_BM, is_positive[rows], is_negative[rows])
            drawn, chosen = draw_queries(clusters[rows], generator)
            if self.weight > 0 and len(drawn):
                close_BB = h_BF @ h_BF.T / self.temperature
                close = close_BB[drawn[:, None], chosen]
                value = value + self.weight * sample_sample_loss(close)
            return value

        n = len(inputs)
        trained = train_head(
            "routerdc",
            self._start(inputs, quality.shape[1]),
            loss,
            n,
            epochs=self.epochs,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            held_out_share=HELD_OUT_SHARE if n >= 2 * BATCH else 0.0,
            seed=self.seed,
        )
        seen = np.isfinite(quality).any(axis=0)
        models = _unit(trained["models"])
        models[~seen] = models[seen].mean(axis=0)
        self.encoder_, self.models_ = trained["encoder"], _unit(models)
        scores = self.scores(inputs)
        self.link_ = ScoreLink.fit(scores, quality)
        deviation = mean_std(quality, model_means(quality))
        fitted = fitted_std(quality, self.link_.apply(scores), self.width)
        self.std_ = np.hypot(fitted, deviation)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self.scores(inputs))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def scores(self, inputs: QueryInputs) -> FloatArray:
        """cos(h_q, k_m), `[Q, M]`."""
        return np.asarray(_unit(inputs.columns @ self.encoder_) @ self.models_.T, np.float64)

    def _clusters(self, inputs: QueryInputs) -> NDArray[np.intp]:
        count = worthwhile_count(self.n_clusters, len(inputs))
        centers = cluster_centers(inputs.vectors, count, self.seed)
        return np.asarray(memberships(inputs.vectors, centers, 1).argmax(axis=1), np.intp)

    def _start(self, inputs: QueryInputs, n_models: int) -> dict[str, FloatArray]:
        generator = np.random.default_rng(self.seed)
        n_columns = inputs.columns.shape[1]
        encoder = generator.normal(0.0, n_columns**-0.5, (n_columns, self.width))
        models = generator.normal(0.0, MODEL_SPREAD, (n_models, self.width))
        if inputs.logged is not None:
            # A model begins at the same place wherever its column stands.
            models[np.argsort(inputs.logged.names)] = models.copy()
        return {"encoder": encoder, "models": models}

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Both sides of the space, the map to quality, and the uncertainty."""
        return super().get_state() | self.link_.arrays()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.link_ = ScoreLink.from_arrays(arrays)


def contrasts(quality: FloatArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which models are pulled to a query and which each of those is pushed from.

    Args:
        quality: `[Q, M]`, NaN where unknown: such a model is neither.

    Returns:
        `[Q, M]` the 3 best with a quality above 0, and `[Q, M, M]` whether the second model is a
        negative of the first: one of the 3 worst, at most 0.5, and worse than the first.

    Example:
        >>> positive, negative = contrasts(np.array([[1.0, 0.0, 0.4, np.nan]]))
        >>> positive[0].tolist(), negative[0, 0].tolist()
        ([True, False, True, False], [False, True, True, False])
    """
    known = np.isfinite(quality)
    best = _first(np.where(known, -quality, np.inf), TOP)
    worst = _first(np.where(known, quality, np.inf), WORST)
    positive = known & best & (quality > 0)
    poor = known & worst & (quality <= GOOD)
    worse = quality[:, None, :] < quality[:, :, None]
    return positive, positive[:, :, None] & poor[:, None, :] & worse


def sample_llm_loss(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over queries of the summed contrast of each positive model against its negatives.

    Args:
        scores: `[B, M]` cosines over the temperature.
        positive: `[B, M]`, and
        negative: `[B, M, M]`, from `contrasts`.
    """
    import torch

    against = torch.where(negative, scores[:, None, :], -torch.inf)
    every = torch.cat([scores[:, :, None], against], dim=2)
    lost = torch.logsumexp(every, dim=2) - scores
    return torch.where(positive, lost, 0.0).sum(dim=1).mean()


def sample_sample_loss(close: Tensor) -> Tensor:
    """Mean of -log softmax of the first column of `[B, 1 + H]`: the query of the same cluster."""
    import torch

    return (torch.logsumexp(close, dim=1) - close[:, 0]).mean()


def draw_queries(clusters: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """For queries of a batch, another of the same cluster and 3 of other clusters.

    Args:
        clusters: `[B]` of the batch.
        generator: of the draws.

    Returns:
        `[N]` the queries that have both in the batch, and `[N, 4]` what was drawn for each, that of
        the same cluster first; the others may repeat.
    """
    import torch

    same = clusters[:, None] == clusters
    other = ~same
    same = same & ~torch.eye(len(clusters), dtype=torch.bool)
    able = torch.nonzero(same.any(dim=1) & other.any(dim=1))[:, 0]
    if not len(able):
        return able, able[:, None]
    alike = torch.multinomial(same[able].float(), 1, generator=generator)
    apart = torch.multinomial(other[able].float(), OTHERS, replacement=True, generator=generator)
    return able, torch.cat([alike, apart], dim=1)


def _first(keys: FloatArray, count: int) -> NDArray[np.bool_]:
    """`[Q, M]` whether a key is among the `count` smallest of its row, the first of equal ones."""
    rank = np.argsort(np.argsort(keys, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(rank < count)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


@dataclass(kw_only=True, eq=False, repr=False)
class RouterDCRouter(EmbeddedRouter):
    """Dual contrastive learning of queries and models in one space.

    Args:
        width: of the space.
        temperature: of both contrasts, above 0.
        weight: of the contrast between queries, 0 or more.
        n_clusters: that the contrast between queries is made of; fewer where queries are few.
        epochs: at most so many passes over the queries.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "routerdc"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 2

    width: int = 64
    temperature: float = 0.2
    weight: float = 1.0
    n_clusters: int = 8
    epochs: int = 20

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if min(self.width, self.n_clusters, self.epochs) < 1:
            raise RouterError(
                f"width is {self.width}, n_clusters {self.n_clusters}, epochs {self.epochs}; "
                "expected 1 or more of each"
            )
        if not self.temperature > 0.0 or not self.weight >= 0.0:
            raise RouterError(
                f"temperature is {self.temperature} and weight {self.weight}; "
                "expected above 0, and 0 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "routerdc": RouterDCEstimator(
                width=self.width,
                temperature=self.temperature,
                weight=self.weight,
                n_clusters=self.n_clusters,
                epochs=self.epochs,
                seed=self.seed,
            )
        }
