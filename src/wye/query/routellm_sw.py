"""RouteLLM's similarity-weighted ranking: ratings fitted anew for each query, near battles first.

Routes a query to a model, before an answer exists, on its embedding and a log of battles. Nothing
is trained beside. Paper: Ong et al., RouteLLM, arXiv 2406.18665, section 4.2.1.

    battles: each pair of models with known outcomes on a query; the better wins, equals tie
    tiers: optimal partition of the global Elo ratings into at most 10, each tier one player
    weight_i = 10 * 10^(sim_i / max_i sim_i),  sim_i = cosine of the query and battle i's query
    theta(q) = Bradley-Terry ratings on the battles with these weights
    score_m(q) = theta_tier(m) - theta_tier(strong),  1 - w = sigmoid(score)

All battles of one logged query share a weight, so their sums by pair of tiers are kept: a query
takes one matrix product and a few Newton steps from the global ratings. Ours: strong is the best
model on average; all models are ranked by their chance against it, and one increasing map
(`ScoreLink`) turns that into quality; a small ridge keeps unbeaten tiers finite; a query without
any similar battle (every cosine at or below 0) weighs all alike.

Shape letters: Q queries, M models, R logged queries with battles, T tiers, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.bradley_terry import (
    RIDGE,
    elo,
    fit_bradley_terry,
    optimal_tiers,
    outcome_wins,
)
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import CELLS_AT_ONCE, QueryInputs
from wye.query.learning.misfit import local_misfit
from wye.query.learning.score_link import ScoreLink

LINK_QUERIES = 1000


class SimilarityRanking(QualityEstimator):
    """Bradley-Terry ratings weighted by similarity.

    Args:
        n_tiers: at most so many players.
        max_queries: logged queries whose battles are kept, drawn at random beyond.
        seed: of the draws.
    """

    def __init__(self, *, n_tiers: int = 10, max_queries: int = 4096, seed: int = 0) -> None:
        self.n_tiers = n_tiers
        self.max_queries = max_queries
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Rate all models, form tiers, keep the battles, and learn the map to quality."""
        means = model_means(quality)
        self.strong_ = int(means.argmax())
        generator = np.random.default_rng(self.seed)
        fought = np.flatnonzero(np.isfinite(quality).sum(axis=1) > 1)
        rows = np.sort(generator.permutation(fought)[: self.max_queries])
        ratings = elo(fit_bradley_terry(_total(outcome_wins(quality[rows]))))
        self.tier_ = optimal_tiers(ratings, self.n_tiers)
        wins = outcome_wins(quality[rows], self.tier_)
        self.vectors_ = np.ascontiguousarray(inputs.vectors[rows])
        self.wins_ = wins.reshape(rows.size, wins.shape[1] ** 2)
        self._summarise()
        sample = np.sort(generator.permutation(len(inputs))[:LINK_QUERIES])
        # A training query must not vote on itself, or the map would trust the scores too much.
        place = np.full(len(inputs), -1, np.intp)
        place[rows] = np.arange(rows.size)
        scores = self._scores(inputs.vectors[sample], place[sample])
        self.link_ = ScoreLink.fit(scores, quality[sample])
        residual = np.full(quality.shape, np.nan)
        residual[sample] = quality[sample] - self.link_.apply(scores)
        self.std_ = np.hypot(local_misfit(residual, inputs), mean_std(quality, means))
        return self

    def ratings(self, vectors: NDArray[np.float32]) -> FloatArray:
        """`[Q, M]` Elo ratings of the models' tiers for queries with these vectors `[Q, D]`."""
        return elo(self._theta(vectors, np.full(len(vectors), -1, np.intp))[:, self.tier_])

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        scores = self._scores(inputs.vectors, np.full(len(inputs), -1, np.intp))
        quality = self.link_.apply(scores)
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _summarise(self) -> None:
        n = int(self.tier_.max()) + 1
        self.total_ = _total(self.wins_.reshape(len(self.wins_), n, n))
        self.global_ = fit_bradley_terry(self.total_, ridge=RIDGE)

    def _scores(self, vectors: NDArray[np.float32], exclude: NDArray[np.intp]) -> FloatArray:
        theta = self._theta(vectors, exclude)[:, self.tier_]
        return np.asarray(theta - theta[:, [self.strong_]], np.float64)

    def _theta(self, vectors: NDArray[np.float32], exclude: NDArray[np.intp]) -> FloatArray:
        """`[Q, T]` ratings; the battles of `exclude` `[Q]` (-1 for none) do not count."""
        n = self.total_.shape[0]
        theta = np.tile(self.global_, (len(vectors), 1))
        if not self.wins_.size or n < 2:
            return theta
        step = max(1, CELLS_AT_ONCE // len(self.vectors_))
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            weight = _weights(vectors[part] @ self.vectors_.T, exclude[part])
            wins = (weight @ self.wins_).astype(np.float64)
            whole = wins.sum(axis=1, keepdims=True)
            # The ridge is counted in battles, so the battles weigh as many as there are.
            wins = np.where(whole > 0, wins / np.where(whole > 0, whole, 1.0), 0.0)
            wins = wins.reshape(-1, n, n) * self.total_.sum()
            theta[part] = fit_bradley_terry(wins, ridge=RIDGE, start=self.global_)
        return theta

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The battles, the tiers and the map."""
        return {
            "std": self.std_,
            "strong": np.array([self.strong_]),
            "tier": self.tier_,
            "vectors": self.vectors_,
            "wins": self.wins_,
            **self.link_.arrays(),
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.std_, self.tier_ = arrays["std"], arrays["tier"]
        self.strong_ = int(arrays["strong"][0])
        self.vectors_, self.wins_ = arrays["vectors"], arrays["wins"]
        self.link_ = ScoreLink.from_arrays(arrays)
        self._summarise()


def similarity_weights(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """RouteLLM's weights 10 * 10^(sim / max sim) of battles, `[Q, R]` both.

    Example:
        >>> similarity_weights(np.array([[0.5, 0.25, 0.0]], np.float32))[0].round(1).tolist()
        [100.0, 31.6, 10.0]
    """
    top = similarity.max(axis=1, keepdims=True)
    ratio = np.where(top > 0, similarity / np.where(top > 0, top, 1.0), 0.0)
    # A cosine can be far more negative than the best one is positive.
    return np.asarray(np.power(np.float32(10.0), 1.0 + np.maximum(ratio, -1.0)), np.float32)


def _weights(similarity: NDArray[np.float32], exclude: NDArray[np.intp]) -> NDArray[np.float32]:
    own = np.flatnonzero(exclude >= 0)
    similarity[own, exclude[own]] = -1.0
    weight = similarity_weights(similarity)
    weight[own, exclude[own]] = 0.0
    return weight


def _total(wins: NDArray[np.float32]) -> FloatArray:
    return np.asarray(wins.sum(axis=0, dtype=np.float64), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class RouteLLMSWRouter(EmbeddedRouter):
    """Similarity-weighted ranking; ranks any number of models by their chance against the strong.

    Args:
        n_tiers: most tiers that models are put into before they are rated.
        max_queries: logged queries whose battles are kept.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "routellm-sw"
    stacked = False
    n_folds = 2

    n_tiers: int = 10
    max_queries: int = 4096

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.n_tiers < 1 or self.max_queries < 1:
            raise RouterError(
                f"n_tiers is {self.n_tiers} and max_queries {self.max_queries}, expected 1 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "ranking": SimilarityRanking(
                n_tiers=self.n_tiers, max_queries=self.max_queries, seed=self.seed
            )
        }
