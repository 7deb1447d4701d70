"""RouteLLM's matrix factorisation: a bilinear score of model and query, learned from wins.

Routes a query to a model, before an answer exists, on its embedding. Paper: Ong et al., RouteLLM,
arXiv 2406.18665, section 4.2.2.

    score(m, q) = u . (P_m / |P_m| * T e_q),  P_m, u in R^d, T: R^D -> R^d, d = 128, no bias
    1 - w = P(m beats strong | q) = sigmoid(score(m, q) - score(strong, q))
    loss = BCE to 1 of score(winner, q) - score(loser, q), ties dropped
    e_q + alpha * normal noise while learning, alpha = 0.1, drawn anew for every batch

learning rate 3e-4, weight decay 1e-5, batches of 64, at most 100 epochs, 5% held out. Ours: the
optimiser is AdamW, which stops early on the held-out pairs; `max_pairs` and `max_steps` bound the
time; wins are all pairs of models with different quality on a query; strong is the best model on
average, and one increasing map (`ScoreLink`) turns score(m) - score(strong) into quality.

Shape letters: Q queries, M models, D embedding width, d width of the factors, B pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.heads import require_torch, train_head
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.misfit import local_misfit
from wye.query.learning.score_link import ScoreLink

if TYPE_CHECKING:
    from torch import Generator, Tensor

WIDTH = 128
NOISE = 0.1
LEARNING_RATE = 3e-4
WEIGHT_DECAY = 1e-5
BATCH = 64
HELD_OUT = 0.05


class MatrixFactorisation(QualityEstimator):
    """Bilinear scores of models and queries from pairwise wins.

    Args:
        epochs: passes over the wins, at most.
        max_pairs: wins that are learned from, drawn at random beyond.
        max_steps: batches, at most.
        seed: of the first weights, the draws and the noise.
    """

    def __init__(
        self,
        *,
        epochs: int = 100,
        max_pairs: int = 100_000,
        max_steps: int = 4_000,
        seed: int = 0,
    ) -> None:
        self.epochs = epochs
        self.max_pairs = max_pairs
        self.max_steps = max_steps
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Learn the factors and the map to quality."""
        require_torch("routellm-mf")
        means = model_means(quality)
        self.strong_ = int(means.argmax())
        generator = np.random.default_rng(self.seed)
        # In the order of their names, so that the columns' order changes nothing.
        order = np.argsort(inputs.logged.names) if inputs.logged else np.arange(quality.shape[1])
        query, winner, loser = _wins(quality[:, order], self.max_pairs, generator)
        n_models, width = quality.shape[1], inputs.vectors.shape[1]
        bound = width**-0.5
        arrays = {
            "models": generator.normal(size=(n_models, WIDTH)),
            "text": generator.uniform(-bound, bound, size=(width, WIDTH)),
            "output": generator.uniform(-(WIDTH**-0.5), WIDTH**-0.5, size=WIDTH),
        }
        learned: Mapping[str, NDArray[Any]] = arrays
        if query.size:
            learned = self._train(arrays, inputs.vectors, query, winner, loser)
        models = np.empty((n_models, WIDTH))
        models[order] = learned["models"]
        self.models_ = _unit(models) * learned["output"]
        self.text_ = np.asarray(learned["text"], np.float32)
        gaps = self._gaps(inputs.vectors)
        self.link_ = ScoreLink.fit(gaps, quality)
        misfit = local_misfit(quality - self.link_.apply(gaps), inputs)
        self.std_ = np.hypot(misfit, mean_std(quality, means))
        return self

    def _train(
        self,
        arrays: Mapping[str, NDArray[Any]],
        vectors: NDArray[np.float32],
        query: NDArray[np.intp],
        winner: NDArray[np.intp],
        loser: NDArray[np.intp],
    ) -> dict[str, NDArray[np.float32]]:
        import torch

        embedded = torch.from_numpy(np.ascontiguousarray(vectors))
        query_B, winner_B, loser_B = (torch.from_numpy(a) for a in (query, winner, loser))

        def loss(parameters: dict[str, Tensor], rows: Tensor, generator: Generator) -> Tensor:
            e = embedded[query_B[rows]]
            if torch.is_grad_enabled():
                e = e + NOISE * torch.randn(e.shape, generator=generator)
            models = torch.nn.functional.normalize(parameters["models"], dim=1)
            apart = models[winner_B[rows]] - models[loser_B[rows]]
            margin = ((e @ parameters["text"]) * apart) @ parameters["output"]
            return torch.nn.functional.softplus(-margin).mean()

        held_out = HELD_OUT if int(HELD_OUT * query.size) >= 1 else 0.0
        steps = -(-query.size // BATCH)
        return train_head(
            "routellm-mf",
            arrays,
            loss,
            query.size,
            epochs=max(1, min(self.epochs, self.max_steps // steps)),
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            held_out_share=held_out,
            patience=10,
            seed=self.seed,
        )

    def scores(self, vectors: NDArray[np.float32]) -> FloatArray:
        """`[Q, M]` score(m, q) of queries with these vectors `[Q, D]`."""
        return np.asarray((vectors @ self.text_) @ self.models_.T, np.float64)

    def win_probability(self, vectors: NDArray[np.float32], one: int, other: int) -> FloatArray:
        """`[Q]` probability that model `one` beats model `other`, both columns."""
        scores = self.scores(vectors)
        return np.asarray(1.0 / (1.0 + np.exp(scores[:, other] - scores[:, one])), np.float64)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self._gaps(inputs.vectors))
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _gaps(self, vectors: NDArray[np.float32]) -> FloatArray:
        scores = self.scores(vectors)
        return scores - scores[:, [self.strong_]]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The factors and the map."""
        return {
            "std": self.std_,
            "strong": np.array([self.strong_]),
            "models": self.models_,
            "text": self.text_,
            **self.link_.arrays(),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.std_, self.strong_ = arrays["std"], int(arrays["strong"][0])
        self.models_, self.text_ = arrays["models"], arrays["text"]
        self.link_ = ScoreLink.from_arrays(arrays)


def _wins(
    quality: FloatArray, most: int, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Query, winner and loser of pairs with different quality, at most `most` of them."""
    parts = []
    for winner in range(quality.shape[1]):
        query, loser = np.nonzero(quality[:, [winner]] > quality)
        parts.append(np.stack([query, np.full(query.size, winner), loser]))
    pairs = np.concatenate(parts, axis=1)
    kept = np.sort(generator.permutation(pairs.shape[1])[:most])
    query, first, second = pairs[:, kept]
    return query, first, second


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class RouteLLMMFRouter(EmbeddedRouter):
    """Matrix factorisation on wins; ranks any number of models by their chance against the strong.

    Args:
        epochs: passes over the wins, at most.
        max_pairs: wins that are learned from, drawn at random beyond.
        max_steps: batches, at most.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "routellm-mf"
    stacked = False
    n_folds = 2

    epochs: int = 100
    max_pairs: int = 100_000
    max_steps: int = 4_000

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if min(self.epochs, self.max_pairs, self.max_steps) < 1:
            raise RouterError(
                f"epochs is {self.epochs}, max_pairs {self.max_pairs} and max_steps "
                f"{self.max_steps}, expected 1 or more each"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "factors": MatrixFactorisation(
                epochs=self.epochs,
                max_pairs=self.max_pairs,
                max_steps=self.max_steps,
                seed=self.seed,
            )
        }
