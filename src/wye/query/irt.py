"""IRT: multidimensional item response theory with a query encoder; a model joins by ability alone.

Routes a query to a model, before an answer exists, on its embedding and text features. Source:
IRT-Router, Song et al., Effective and Interpretable Multi-LLM Routing via Item Response Theory,
arXiv 2506.01048 (its multidimensional variant, and its warm-up of new queries).

    P(q, m) = sigmoid(a_q . theta_m - b_q)
    a_q = softplus(x_q W_a),   b_q = x_q w_b                 discrimination in R^K > 0, difficulty
    a new query: (a, b) <- 0.7 (a, b) + 0.3 mean of the (a, b) of its nearest training queries

fitted by binary cross-entropy (fractional quality counts as that share of a success) with weight
decay on theta. A new model: a and b stay frozen, theta is the posterior mode given its answers.
Ours: x carries a constant; K = 8; weight decay of the encoder is chosen on a held-out fifth, and it
is fitted by L-BFGS; 8 neighbours; the prior of a newcomer's theta is normal, with the mean and the
widened covariance of the models known so far.

Shape letters: Q queries, M models, K abilities, D columns of `QueryInputs.columns` and a constant,
R references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.estimator import (
    QualityEstimator,
    effective_parameters,
    fitted_std,
    mean_std,
    model_means,
)
from wye.query.learning.inputs import Neighbours, QueryInputs
from wye.query.learning.joining import PlacingEstimator, PlacingRouter, newcomer_prior
from wye.query.learning.lbfgs import Arrays, minimise_penalised
from wye.query.learning.named_arrays import KeptArrays

PENALTIES = (3e-4, 3e-3)
# Against the mean loss of a query and model, of which there are many for each theta.
THETA_DECAY = 1e-3
ROUNDS = 60
NEWTON_STEPS = 30


class IRTEstimator(KeptArrays, PlacingEstimator):
    """Abilities of the models, and an encoder of difficulty and discrimination.

    Args:
        n_abilities: K.
        warm_start: weight of the neighbours' (a, b) in those of a new query, 0 to 1.
        n_neighbours: how many neighbours that is the mean of.
        seed: of the first weights and of the held-out queries.
    """

    kept: ClassVar[tuple[str, ...]] = (
        "discrimination",
        "difficulty",
        "theta",
        "items",
        "known",
        "mean_std",
        "std",
    )

    def __init__(
        self,
        *,
        n_abilities: int = 8,
        warm_start: float = 0.3,
        n_neighbours: int = 8,
        seed: int = 0,
    ) -> None:
        self.n_abilities = n_abilities
        self.warm_start = warm_start
        self.n_neighbours = n_neighbours
        self.seed = seed

    @property
    def neighbours_read(self) -> int:
        """How many neighbours of a query `predict` reads."""
        return self.n_neighbours

    @property
    def levels(self) -> FloatArray:
        """Expected quality of each model averaged over the training queries, `[M]`."""
        known = self.known_ > 0
        return np.asarray(chances(self.items_[known], self.theta_).mean(axis=0), np.float64)

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Fit abilities and encoder together."""
        means = model_means(quality)
        known = np.isfinite(quality)
        filled = np.where(known, quality, 0.0)
        x = _with_constant(inputs)

        def loss(rows: NDArray[np.intp], arrays: Arrays) -> tuple[float, Arrays]:
            return cross_entropy(x[rows], filled[rows], known[rows], arrays)

        trained, penalty = minimise_penalised(
            self._start(x.shape[1], means),
            loss,
            len(inputs),
            decayed=("discrimination", "difficulty"),
            penalties=PENALTIES,
            seed=self.seed,
            rounds=ROUNDS,
        )
        self.discrimination_ = trained["discrimination"].astype(np.float32)
        self.difficulty_ = trained["difficulty"].astype(np.float32)
        self.theta_ = trained["theta"] + trained["base"]
        rows = inputs.reference >= 0
        self.items_ = np.zeros((inputs.n_references, self.n_abilities + 1))
        self.known_ = np.zeros(inputs.n_references)
        encoded = self.encode(inputs)
        self.items_[inputs.reference[rows]] = encoded[rows]
        self.known_[inputs.reference[rows]] = 1.0
        self.mean_std_ = mean_std(quality, means)
        predicted = chances(encoded, self.theta_)
        # The curvature of the logistic turns the weight decay into that of a least squares fit.
        curvature = max(float((predicted * (1.0 - predicted)).mean()), 0.01)
        n_parameters = effective_parameters(x, len(inputs) * penalty / curvature)
        self.std_ = np.hypot(fitted_std(quality, predicted, n_parameters), self.mean_std_)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = chances(self.items(inputs), self.theta_)
        return quality, np.broadcast_to(self.std_, quality.shape)

    def encode(self, inputs: QueryInputs) -> FloatArray:
        """(a, b) of each query by the encoder alone, `[Q, K + 1]`."""
        return _items(_with_constant(inputs), self.discrimination_, self.difficulty_)

    def items(self, inputs: QueryInputs) -> FloatArray:
        """(a, b) of each new query, warm-started from its neighbours, `[Q, K + 1]`."""
        own = self.encode(inputs)
        near, found = self._of_neighbours(inputs.neighbours)
        weight = self.warm_start * (found > 0)[:, None]
        return np.asarray((1.0 - weight) * own + weight * near, np.float64)

    def join(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Add a model from its measured quality `[Q]`: its theta alone, a and b stay frozen."""
        known = np.isfinite(quality)
        items = self.items(inputs)[known]
        width = np.full(self.theta_.shape[1], float(self.theta_.var(axis=0).mean()) + 0.1)
        prior, covariance = newcomer_prior(self.theta_, width)
        precision = np.asarray(np.linalg.inv(covariance), np.float64)
        theta, posterior = ability(items, quality[known], prior, precision)
        reached = self.items_[self.known_ > 0]
        chance = chances(reached, theta[None, :])
        slope = (chance * (1.0 - chance) * reached[:, :-1]).mean(axis=0)
        doubt = float(np.sqrt(slope @ posterior @ slope))
        self.theta_ = np.concatenate([self.theta_, theta[None, :]])
        self.mean_std_ = np.append(self.mean_std_, doubt)
        self.std_ = np.append(self.std_, np.hypot(float(self.std_.mean()), doubt))
        return self

    def _start(self, n_columns: int, means: FloatArray) -> Arrays:
        generator = np.random.default_rng(self.seed)
        # The constant column comes last: at first every a is 1 / K and theta the logit of a mean.
        discrimination = generator.normal(0.0, 0.1, (n_columns, self.n_abilities))
        discrimination[-1] = np.log(np.expm1(1.0 / self.n_abilities))
        limited = np.clip(means, 0.02, 0.98)
        logit = np.log(limited / (1.0 - limited))
        return {
            "discrimination": discrimination,
            "difficulty": np.zeros(n_columns),
            "theta": np.zeros((len(means), self.n_abilities)),
            "base": logit[:, None],
        }

    def _of_neighbours(self, found: Neighbours) -> tuple[FloatArray, FloatArray]:
        """Mean (a, b) of the nearest known references, and how many there are."""
        index = found.index[:, : self.n_neighbours]
        weight = self.known_[index]
        count = weight.sum(axis=1)
        total = (weight[:, None, :] @ self.items_[index])[:, 0]
        return total / np.maximum(count, 1.0)[:, None], count


def chances(items: FloatArray, theta: FloatArray) -> FloatArray:
    """P = sigmoid(a . theta - b), `[Q, M]`.

    Args:
        items: `[Q, K + 1]` a, and b in the last column.
        theta: `[M, K]`.
    """
    return _sigmoid(items[:, :-1] @ theta.T - items[:, -1:])


def ability(
    items: FloatArray, quality: FloatArray, prior: FloatArray, precision: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Posterior mode `[K]` of a model's theta and its covariance `[K, K]`, items frozen.

    The posterior is log-concave, so Newton's steps, halved where they overshoot, find the mode.

    Args:
        items: `[Q, K + 1]` of the queries that the model answered.
        quality: `[Q]`, 0 to 1.
        prior: `[K]` mean.
        precision: `[K, K]` of the prior.
    """
    a, b = items[:, :-1], items[:, -1]

    def objective(at: FloatArray) -> float:
        z = a @ at - b
        gap = at - prior
        return float((np.logaddexp(0.0, z) - quality * z).sum() + gap @ precision @ gap / 2)

    theta = prior.copy()
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(a @ theta - b)
        gradient = a.T @ (chance - quality) + precision @ (theta - prior)
        curvature = (a.T * (chance * (1.0 - chance))) @ a + precision
        step = np.linalg.solve(curvature, gradient)
        scale, before = 1.0, objective(theta)
        while objective(theta - scale * step) > before and scale > 1e-6:
            scale /= 2
        theta = theta - scale * step
        if float(np.abs(scale * step).max()) < 1e-8:
            break
    chance = _sigmoid(a @ theta - b)
    curvature = (a.T * (chance * (1.0 - chance))) @ a + precision
    return theta, np.asarray(np.linalg.inv(curvature), np.float64)


def cross_entropy(
    x: FloatArray, quality: FloatArray, known: NDArray[np.bool_], arrays: Arrays
) -> tuple[float, Arrays]:
    """Mean binary cross-entropy over the known outcomes, with decay of theta, and its gradient.

    Args:
        x: `[Q, D]`.
        quality: `[Q, M]`, anything finite where unknown.
        known: `[Q, M]`.
        arrays: `discrimination` `[D, K]`, `difficulty` `[D]`, `theta` `[M, K]` and `base` `[M, 1]`:
            the ability of a model is theta + base in every direction.
    """
    theta = arrays["theta"] + arrays["base"]
    raw = x @ arrays["discrimination"]
    a = np.logaddexp(0.0, raw)
    z = a @ theta.T - (x @ arrays["difficulty"])[:, None]
    count = max(1, int(known.sum()))
    value = float(np.where(known, np.logaddexp(0.0, z) - quality * z, 0.0).sum() / count)
    value += THETA_DECAY / 2 * float((arrays["theta"] ** 2).sum())
    error = np.where(known, _sigmoid(z) - quality, 0.0) / count
    of_theta = error.T @ a
    return value, {
        "discrimination": x.T @ ((error @ theta) * _sigmoid(raw)),
        "difficulty": -x.T @ error.sum(axis=1),
        "theta": of_theta + THETA_DECAY * arrays["theta"],
        "base": of_theta.sum(axis=1, keepdims=True),
    }


def _items(
    x: FloatArray, discrimination: NDArray[np.float32], difficulty: NDArray[np.float32]
) -> FloatArray:
    a = np.logaddexp(0.0, x @ discrimination)
    return np.concatenate([a, (x @ difficulty)[:, None]], axis=1)


def _with_constant(inputs: QueryInputs) -> FloatArray:
    ones = np.ones((len(inputs), 1))
    return np.concatenate([np.asarray(inputs.columns, np.float64), ones], axis=1)


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0))), np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class IRTRouter(PlacingRouter):
    """Item response theory with a query encoder; models join by their ability alone.

    Args:
        n_abilities: dimensions of ability, 1 to 25.
        warm_start: weight of the neighbours in difficulty and discrimination of a new query.
        n_neighbours: how many neighbours.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "irt"
    stacked: ClassVar[bool] = False
    n_folds: ClassVar[int] = 2

    n_abilities: int = 8
    warm_start: float = 0.3
    n_neighbours: int = 8

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 1 <= self.n_abilities <= 25 or self.n_neighbours < 1:
            raise RouterError(
                f"n_abilities is {self.n_abilities}, n_neighbours {self.n_neighbours}; "
                "expected 1 to 25, and 1 or more"
            )
        if not 0.0 <= self.warm_start <= 1.0:
            raise RouterError(f"warm_start is {self.warm_start}, expected 0 to 1")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "irt": IRTEstimator(
                n_abilities=self.n_abilities,
                warm_start=self.warm_start,
                n_neighbours=self.n_neighbours,
                seed=self.seed,
            )
        }
