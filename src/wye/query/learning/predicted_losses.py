"""Losses of M models predicted by one hidden layer on the embedding of a query.

    L_hat(z) = (relu(z W + b) V + c) * spread + mean,   losses standardised per model

Learned by squared error on all models at once, stopped early; then, one outcome after the other,
by normalised least mean squares on a model's own column of V:

    v_i <- v_i + rate (L - L_hat_i) h / (1 + |h|^2),   h = relu(z W + b)

Source: Tryage, arXiv 2308.11601. Cells of a log without an outcome hold what ridge regression
expects while it learns.

Shape letters: Q queries, M models, F hidden width.
"""

from __future__ import annotations

import warnings
from typing import ClassVar, Self

import numpy as np

from wye.query.base import FloatArray
from wye.query.learning.estimator import QualityEstimator, fitted_std, mean_std, model_means
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.label_heads import INPUT_SCALE
from wye.query.learning.named_arrays import KeptArrays

TRAINING_QUERIES = 8192


class LossEstimator(KeptArrays, QualityEstimator):
    """Predicted losses of M models by one hidden layer; quality is 1 - loss.

    Args:
        hidden: width F of the hidden layer.
        epochs: at most so many passes; fewer when a held-out tenth stops improving.
        seed: of first weights and the order of queries.
    """

    kept: ClassVar[tuple[str, ...]] = (
        "center",
        "scale",
        "weight",
        "bias",
        "last",
        "last_bias",
        "std",
    )

    def __init__(self, *, hidden: int = 256, epochs: int = 30, seed: int = 0) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.seed = seed

    last_: FloatArray
    last_bias_: FloatArray

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Regress the losses of the models on the embedding."""
        loss, means = 1.0 - quality, 1.0 - model_means(quality)
        self.center_ = means
        self.scale_ = np.maximum(_spread(loss, means), 1e-3)
        self._train(inputs, quality)
        predicted = 1.0 - self.losses(inputs)
        deviation = mean_std(quality, model_means(quality))
        self.std_ = np.hypot(fitted_std(quality, predicted, inputs.vectors.shape[1]), deviation)
        return self

    def losses(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` predicted losses, in their own unit."""
        hidden = np.maximum(inputs.vectors @ self.weight_ + self.bias_, 0.0)
        return np.asarray((hidden @ self.last_ + self.last_bias_) * self.scale_ + self.center_)

    def learn(self, inputs: QueryInputs, model: int, loss: float, rate: float) -> Self:
        """Move the loss of one model on one query towards what it was; no other model changes.

        Args:
            inputs: the query, Q = 1.
            model: its column.
            loss: that it had.
            rate: share of the error that is taken away on the very query, 0 to 1.
        """
        hidden = np.maximum(inputs.vectors @ self.weight_ + self.bias_, 0.0)[0]
        error = (loss - float(self.losses(inputs)[0, model])) / self.scale_[model]
        step = rate * error / (1.0 + float(hidden @ hidden))
        moved = np.arange(self.center_.size) == model
        self.last_ = self.last_ + step * np.outer(hidden, moved)
        self.last_bias_ = self.last_bias_ + step * moved
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        quality = 1.0 - self.losses(inputs)
        return quality, np.broadcast_to(self.std_, quality.shape)

    def _train(self, inputs: QueryInputs, quality: FloatArray) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        from wye.query.linear import LinearEstimator

        known = np.isfinite(quality)
        filled = quality
        if not known.all():
            expected = LinearEstimator().fit(inputs, quality).predict(inputs)[0]
            filled = np.where(known, quality, expected)
        # By name, so that first weights do not depend on the order of the columns.
        order = np.arange(quality.shape[1])
        if inputs.logged is not None:
            order = np.argsort(np.array(inputs.logged.names), kind="stable")
        target = ((1.0 - filled - self.center_) / self.scale_)[:, order]
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(inputs))[:TRAINING_QUERIES])
        network = MLPRegressor(
            hidden_layer_sizes=(self.hidden,),
            alpha=1e-4,
            batch_size=min(64, len(rows)),
            learning_rate_init=1e-3,
            max_iter=self.epochs,
            early_stopping=len(rows) >= 100,
            n_iter_no_change=5,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # The number of epochs is a bound on time, not a promise of convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            given = target[rows] if target.shape[1] > 1 else target[rows, 0]
            network.fit(inputs.vectors[rows] * np.float32(INPUT_SCALE), given)
        self.weight_ = (network.coefs_[0] * INPUT_SCALE).astype(np.float32)
        self.bias_ = network.intercepts_[0].astype(np.float32)
        back = np.argsort(order)
        self.last_, self.last_bias_ = network.coefs_[1][:, back], network.intercepts_[1][back]


def _spread(loss: FloatArray, means: FloatArray) -> FloatArray:
    known = np.isfinite(loss)
    total = (np.where(known, loss - means, 0.0) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(total / np.maximum(known.sum(axis=0), 1)), np.float64)
