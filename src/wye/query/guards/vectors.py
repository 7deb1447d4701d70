"""Classifiers of embedded texts: one-vs-rest logistic regression, support vectors, a network.

They learn with scikit-learn and predict in NumPy. A logit of the regression and of the network goes
through a sigmoid of its own domain, that of the machine is a margin, so that all domains can be
unlikely at once. Source: the embedding baselines of arXiv 2505.14524.

Shape letters: Q queries, D embedding width, C domains, H hidden width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, get_embedder
from wye.query.base import FloatArray, RouterError
from wye.query.guards.base import DomainClassifier, Labels
from wye.query.learning.named_arrays import prefixed, under

Head = Literal["logistic", "svm", "mlp"]
HEADS = ("logistic", "svm", "mlp")
# Unit vectors have components of about 1/16; heads learn faster on inputs of about 1.
_SCALE = 8.0


class VectorClassifier(DomainClassifier):
    """A head on the vectors of an embedder.

    Args:
        head: `logistic`, `svm` or `mlp`.
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        hidden: width of the hidden layer of `mlp`.
        seed: of first weights and of the order of rows.

    Raises:
        RouterError: a parameter is out of range.
    """

    kind = "vectors"

    def __init__(
        self,
        *,
        head: Head = "logistic",
        embedder: str | Embedder = "static",
        hidden: int = 128,
        seed: int = 0,
    ) -> None:
        if head not in HEADS or hidden < 1:
            raise RouterError(
                f"head is {head!r} and hidden {hidden}, expected one of {list(HEADS)} and 1 or more"
            )
        self.head: Head = head
        self.embedder = embedder
        self.hidden = hidden
        self.seed = seed

    def _learn(self, texts: tuple[str, ...], labels: Labels, n_domains: int) -> None:
        self.embedder_ = get_embedder(self.embedder).fit(texts)
        x = self.embedder_.embed(texts) * np.float32(_SCALE)
        wanted = np.eye(n_domains)[labels]
        self.layers_ = _network(x, wanted, self.hidden, self.seed) if self.head == "mlp" else []
        if self.head != "mlp":
            self.layers_ = [_one_against_rest(x, wanted, self.head, self.seed)]

    def _read(self, texts: tuple[str, ...]) -> tuple[FloatArray, NDArray[np.float32]]:
        h = self.embedder_.embed(texts)
        x = h * np.float32(_SCALE)
        for weight, bias in self.layers_[:-1]:
            h = x = np.maximum(x @ weight + bias, np.float32(0.0))
        weight, bias = self.layers_[-1]
        return np.asarray(x @ weight + bias, np.float64), h

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The layers, and what the embedder learned."""
        arrays = prefixed("embedder/", self.embedder_.get_state())
        for n, (weight, bias) in enumerate(self.layers_):
            arrays |= {f"weight{n}": weight, f"bias{n}": bias}
        return arrays

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.embedder_ = restored_embedder(self.embedder, arrays)
        count = sum(k.startswith("weight") for k in arrays)
        self.layers_ = [(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range(count)]


def restored_embedder(spec: str | Embedder, arrays: Mapping[str, NDArray[Any]]) -> Embedder:
    """The embedder of `spec` with what it had learned, from arrays named `embedder/...`."""
    made = get_embedder(spec)
    made.set_state(under("embedder/", arrays))
    return made


_Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


def _one_against_rest(x: NDArray[np.float32], wanted: FloatArray, head: Head, seed: int) -> _Layer:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    columns = []
    for own in wanted.T:
        model = (
            LinearSVC(C=0.1, random_state=seed)
            if head == "svm"
            else LogisticRegression(C=1.0, max_iter=500)
        )
        model.fit(x, own)
        columns.append((model.coef_[0], model.intercept_[0]))
    weight = np.stack([c for c, _ in columns], axis=1)
    return weight.astype(np.float32), np.array([b for _, b in columns], np.float32)


def _network(x: NDArray[np.float32], wanted: FloatArray, hidden: int, seed: int) -> list[_Layer]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    # Indicators of two columns and more are learned as sigmoids, each with its own cross-entropy.
    network = MLPClassifier((hidden,), alpha=1e-3, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        # The number of epochs is a bound on time, not a promise of convergence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x, wanted)
    return [
        (np.asarray(w, np.float32), np.asarray(b, np.float32))
        for w, b in zip(network.coefs_, network.intercepts_, strict=True)
    ]
