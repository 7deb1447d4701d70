"""MLP: a small network on the embedding and text features; its last layer is a Bayesian ridge.

Routes a query to a model, before an answer exists, on its embedding and text features. Source: the
MLP routers of RouterBench, arXiv 2403.12031.

The hidden layer is trained by scikit-learn, which cannot leave cells out, on outcomes whose unknown
cells hold what ridge regression expects. It only serves as a representation. It is trained on one
half of the queries and the last layer is fitted on the known outcomes of the other half, where the
hidden layer cannot pass on what it memorised; a second network takes the halves the other way
round, and the two are averaged.

Shape letters: Q queries, M models, D columns of `QueryInputs.columns`, F hidden width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.estimator import QualityEstimator, folds
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.named_arrays import prefixed, under
from wye.query.learning.ridge import Design
from wye.query.linear import LinearEstimator

TRAINING_QUERIES = 3_000
# Unit vectors have components of about 1/16; a network learns faster on inputs of about 1.
INPUT_SCALE = 8.0

HiddenLayer = tuple[NDArray[np.float32], NDArray[np.float32]]
Network = tuple[NDArray[np.float32], NDArray[np.float32], LinearEstimator]


class MLPEstimator(QualityEstimator):
    """One hidden layer of rectified units under two ridge regressions.

    Args:
        hidden: width F of the hidden layer.
        penalty: weight decay of the hidden layer.
        epochs: at most so many passes; fewer when a held-out tenth stops improving.
        seed: of the first weights and the order of the queries.
    """

    def __init__(
        self, *, hidden: int = 64, penalty: float = 0.1, epochs: int = 20, seed: int = 0
    ) -> None:
        self.hidden = hidden
        self.penalty = penalty
        self.epochs = epochs
        self.seed = seed

    def fit(self, inputs: QueryInputs, quality: FloatArray) -> Self:
        """Train two hidden layers, then fit each one's last layer on the half it has not seen."""
        columns, known = inputs.columns, np.isfinite(quality)
        filled = quality
        if not known.all():
            filled = np.where(
                known, quality, LinearEstimator().fit(inputs, quality).predict(inputs)[0]
            )
        one, other = folds(len(inputs), 2, self.seed) if len(inputs) > 1 else [np.zeros(1, int)] * 2
        networks: list[Network] = []
        for learn, check in ((one, other), (other, one)):
            learn = learn[:: max(1, len(learn) // TRAINING_QUERIES)]
            network = self._hidden_layer(columns[learn] * INPUT_SCALE, filled[learn])
            hidden = Design(_activations(network, columns[check]))
            last = LinearEstimator().fit_design(hidden, quality[check])
            networks.append((*network, last))
        self._keep(networks)
        return self

    def predict(self, inputs: QueryInputs) -> tuple[FloatArray, FloatArray]:
        """Expected quality and its standard uncertainty, each `[Q, M]`."""
        hidden, last = self._together
        mean, variance = last.moments(_activations(hidden, inputs.columns))
        apart = mean[0] - mean[1]
        both = np.add.reduce(mean, axis=0), np.add.reduce(variance, axis=0)
        return both[0] / 2, np.sqrt(both[1] / 2 + apart * apart / 4)

    def _keep(self, networks: list[Network]) -> None:
        """Keep both networks, and beside them one of stacked arrays, which predicts by both."""
        self.networks_ = networks
        weights, biases, lasts = zip(*networks, strict=True)
        self._together = (
            (np.stack(weights), np.stack(biases)[:, None]),
            LinearEstimator.stacked(lasts),
        )

    def _hidden_layer(self, columns: NDArray[np.float32], targets: FloatArray) -> HiddenLayer:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        network = MLPRegressor(
            hidden_layer_sizes=(self.hidden,),
            alpha=self.penalty,
            max_iter=self.epochs,
            early_stopping=len(columns) >= 100,
            n_iter_no_change=4,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            # The number of epochs is a bound on time, not a promise of convergence.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(columns, targets if targets.shape[1] > 1 else targets[:, 0])
        weight = network.coefs_[0] * INPUT_SCALE
        return weight.astype(np.float32), network.intercepts_[0].astype(np.float32)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Weights of both networks."""
        arrays: dict[str, NDArray[Any]] = {}
        for n, (weight, bias, last) in enumerate(self.networks_):
            arrays |= {f"{n}.weight": weight, f"{n}.bias": bias}
            arrays |= prefixed(f"{n}.last.", last.get_state())
        return arrays

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        networks: list[Network] = []
        for n in range(2):
            last = LinearEstimator()
            last.set_state(under(f"{n}.last.", arrays))
            networks.append((arrays[f"{n}.weight"], arrays[f"{n}.bias"], last))
        self._keep(networks)


def _activations(network: HiddenLayer, columns: NDArray[np.float32]) -> NDArray[np.float32]:
    weight, bias = network
    return np.asarray(np.maximum(columns @ weight + bias, 0.0), np.float32)


@dataclass(kw_only=True, eq=False, repr=False)
class MLPRouter(EmbeddedRouter):
    """A small network on the embedding and text features.

    Args:
        hidden: width of the hidden layer.
        penalty: weight decay of the hidden layer.
        epochs: at most so many passes over the queries.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "mlp"

    hidden: int = 64
    penalty: float = 0.1
    epochs: int = 20

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hidden < 1 or self.epochs < 1 or self.penalty < 0:
            raise RouterError(
                f"hidden is {self.hidden}, epochs {self.epochs}, penalty {self.penalty}; "
                "expected hidden and epochs of 1 or more and a penalty of 0 or more"
            )

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "mlp": MLPEstimator(
                hidden=self.hidden, penalty=self.penalty, epochs=self.epochs, seed=self.seed
            )
        }
