"""Eagle: a global Elo rating of the models, and a local one replayed on the nearest queries.

Routes a query to a model, before an answer exists, on its embedding and the battles that the log
holds. Source: Zhao, Jin and Mao, Eagle: Efficient Training-Free Router for Multi-LLM Inference,
arXiv 2409.15518.

    E_ab = 1 / (1 + 10^((R_b - R_a) / 400)),   R_a <- R_a + K (S_ab - E_ab)           (Elo, K = 32)
    rating[q, m] = P global_m + (1 - P) local_qm,   P = 0.5

S is 1 for a win, 1/2 for a tie and 0 for a loss. local_q starts from the global ratings and replays
the battles on the 20 nearest known queries. Nothing is trained: an outcome more (`observe`) moves
the global ratings by one step and is a neighbour from then on.

Ours, for logs in which more than two models answered a query: that query is one round, in which
every two of its n models meet at the ratings from before the round, each battle worth K / (n - 1),
so that a query moves no rating by more than K and their sum stays; the nearest query is replayed
last, since the last battles count most; the global rating is the mean over all rounds played, which
does not hang on the last few. A rating becomes a quality by one logistic map for all models.

Shape letters: Q queries, M models, R references, N neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, mean_std, model_means
from wye.query.learning.inputs import CELLS_AT_ONCE, QueryInputs
from wye.query.learning.named_arrays import KeptArrays
from wye.query.learning.score_link import ScoreLink

SCALE = 400.0 / np.log(10.0)
START = 1000.0


class EagleEstimator(KeptArrays, QualityEstimator):
    """Elo ratings of the models over the whole log and around each query.

    Args:
        share: P, weight of the global rating, 0 to 1.
        k_factor: K, what a battle can move a rating by.
        n_neighbours: nearest known queries that the local rating replays.
    """

    kept: ClassVar[tuple[str, ...]] = ("outcomes", "current", "total", "rounds", "mean_std")

    def __init__(
        self, *, share: float = 0.5, k_factor: float = 32.0, n_neighbours: int = 20
    ) -> None:
        self.share = share
        self.k_factor = k_factor
        self.n_neighbours = n_neighbours

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.n_neighbours

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Play the log in its order, keep the references' outcomes, fit the map to quality."""
        self.mean_std_ = mean_std(quality, model_means(quality))
        n_models = quality.shape[1]
        self.outcomes_ = np.full((inputs.n_references, n_models), np.nan)
        rows = inputs.reference >= 0
        self.outcomes_[inputs.reference[rows]] = quality[rows]
        self.current_ = np.full(n_models, START)
        self.total_ = np.zeros(n_models)
        self.rounds_ = np.zeros(1)
        # Elo is sequential by definition: this is the one loop over the log, a step a query.
        for row in quality:
            self._play(row)
        self.link_ = ScoreLink.fit(self.ratings(inputs), quality)
        return self

    @property
    def global_rating(self) -> FloatArray:
        """Mean of the ratings over all rounds, `[M]`, 1000 on average."""
        if self.rounds_[0] == 0:
            return self.current_
        return np.asarray(self.total_ / self.rounds_[0], np.float64)

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = self.link_.apply(self.ratings(inputs))
        n = max(1, min(self.n_neighbours, inputs.neighbours.index.shape[1]))
        noise = np.sqrt(np.maximum(quality * (1.0 - quality), 0.01) / n)
        return quality, np.hypot(noise, self.mean_std_)

    def ratings(self, inputs: QueryInputs) -> FloatArray:
        """P global + (1 - P) local, `[Q, M]`."""
        index = inputs.neighbours.index[:, : self.n_neighbours]
        n_models = len(self.current_)
        local = np.repeat(self.global_rating[None, :], len(index), axis=0)
        step = max(1, CELLS_AT_ONCE // (n_models**2 * max(1, index.shape[1])))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            weight, points = rounds(self.outcomes_[index[part]], self.k_factor)
            for near in reversed(range(index.shape[1])):
                local[part] += played(local[part], weight[:, near], points[:, near])
        return self.share * self.global_rating + (1.0 - self.share) * local

    def observe(self, quality: FloatArray) -> Self:
        """Play one more query, `[M]` with NaN where unknown, and keep it as the last reference."""
        self._play(quality)
        self.outcomes_ = np.concatenate([self.outcomes_, quality[None, :]])
        return self

    def forget(self, count: int) -> Self:
        """Drop the `count` oldest references; ratings stay."""
        self.outcomes_ = self.outcomes_[count:]
        return self

    def _play(self, quality: FloatArray) -> None:
        self.current_ = self.current_ + elo_round(self.current_, quality, self.k_factor)
        self.total_ = self.total_ + self.current_
        self.rounds_ = self.rounds_ + 1.0

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Ratings, the outcomes of the references, and the map to quality."""
        return super().get_state() | self.link_.arrays()

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.link_ = ScoreLink.from_arrays(arrays)


def elo_round(ratings: FloatArray, quality: FloatArray, k_factor: float) -> FloatArray:
    """What a round in which every two models meet adds to their ratings, same shape as `ratings`.

    Args:
        ratings: `[..., M]` before the round.
        quality: `[..., M]` of the models' answers; one that is NaN did not play.
        k_factor: what a round can move a rating by.

    Example:
        >>> elo_round(np.array([1000.0, 1000.0]), np.array([1.0, 0.0]), 32.0).tolist()
        [16.0, -16.0]
    """
    return played(ratings, *rounds(quality, k_factor))


def rounds(quality: FloatArray, k_factor: float) -> tuple[FloatArray, FloatArray]:
    """What rounds of `quality` `[..., M]` are worth, whatever the ratings are when they are played.

    Returns:
        Weight of every battle `[..., M, M]`, 0 where one of the two did not play, and the points
        that each model won, `[..., M]`.
    """
    known = np.isfinite(quality)
    filled = np.where(known, quality, 0.0)
    won = 0.5 + 0.5 * np.sign(filled[..., :, None] - filled[..., None, :])
    met = known[..., :, None] & known[..., None, :]
    # Nobody meets themselves.
    met[..., np.arange(quality.shape[-1]), np.arange(quality.shape[-1])] = False
    opponents = np.maximum(known.sum(axis=-1) - 1, 1)
    weight = met * (k_factor / opponents)[..., None, None]
    return weight, np.add.reduce(weight * won, axis=-1)


def played(ratings: FloatArray, weight: FloatArray, points: FloatArray) -> FloatArray:
    """What a round adds to `ratings` `[..., M]`: points won minus points expected."""
    gap = (ratings[..., :, None] - ratings[..., None, :]) / SCALE
    expected = 1.0 / (1.0 + np.exp(np.minimum(np.maximum(-gap, -60.0), 60.0)))
    return np.asarray(points - np.add.reduce(weight * expected, axis=-1), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class EagleRouter(EmbeddedRouter):
    """Global and local Elo ratings; training-free, and incremental.

    Args:
        share: weight of the global rating, 0 to 1.
        k_factor: what a battle can move a rating by, above 0.
        n_neighbours: nearest known queries that the local rating replays.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "eagle"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 2

    share: float = 0.5
    k_factor: float = 32.0
    n_neighbours: int = 20

    def observe(self, text: str, quality: Mapping[str, float]) -> Self:
        """Learn from one more query at once: its battles, and it as a neighbour of others.

        With more than `max_references` queries kept, the oldest is forgotten as a neighbour.

        Args:
            text: the query.
            quality: of the answers of some models, 0 to 1.

        Raises:
            NotFittedError: before `fit`.
            RouterError: an unknown model, none at all, or a quality outside 0 to 1.
        """
        self._require_fitted()
        if not quality:
            raise RouterError("quality names no model; expected the quality of one or more")
        wrong = {m: v for m, v in quality.items() if not 0.0 <= v <= 1.0}
        if wrong:
            raise RouterError(f"quality is {wrong}, expected figures from 0 to 1")
        estimator = self.estimators_["eagle"]
        assert isinstance(estimator, EagleEstimator)
        row = np.full(len(estimator.current_), np.nan)
        for model, value in quality.items():
            row[self.kept_[self._column(model)]] = value
        vector = self._inputs([text]).vectors
        estimator.observe(row)
        self.references_ = np.concatenate([self.references_, vector])
        surplus = len(self.references_) - self.max_references
        if surplus > 0:
            self.references_ = np.ascontiguousarray(self.references_[surplus:])
            estimator.forget(surplus)
        return self

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0.0 <= self.share <= 1.0 or not self.k_factor > 0.0 or self.n_neighbours < 1:
            raise RouterError(
                f"share is {self.share}, k_factor {self.k_factor}, n_neighbours "
                f"{self.n_neighbours}; expected 0 to 1, above 0, and 1 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "eagle": EagleEstimator(
                share=self.share, k_factor=self.k_factor, n_neighbours=self.n_neighbours
            )
        }
