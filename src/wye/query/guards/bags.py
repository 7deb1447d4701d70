"""Classifiers of bags of words: WideMLP and a fastText-like one. They learn with PyTorch.

    WideMLP    h = ReLU(sum_t w_qt E[t] + a),  logits = W h + b,  w_q the unit row of counts times
               inverse document frequencies (Galke and Scherp, ACL 2022, arXiv 2109.03777; as
               router: arXiv 2505.14524), one-vs-rest sigmoids, dropout on h
    fastText   h = mean over words and runs of letters of E[hash],  logits = W h + b, softmax
               (Joulin et al., EACL 2017, arXiv 1607.01759)

A word that training did not meet, and a bucket that it did not fill, count as absent: an empty bag
has h = ReLU(a). Width 1024, dropout 0.5, rate 1e-3 and the weights of words in WideMLP are those of
the first paper, since the second's could not be read. Ours: 2^18 buckets of runs of 3 to 5 letters
and width 64 in fastText, passes and batches of both.

Shape letters: Q queries, C domains, V terms, H width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.guards.base import DomainClassifier, Labels
from wye.query.guards.vocabulary import (
    frequent_words,
    mean_bags,
    piece_rows,
    unit_bags,
    word_rows,
)
from wye.query.learning.categories import names_from_array, names_to_array
from wye.query.learning.heads import require_torch, train_head

if TYPE_CHECKING:
    from torch import Generator, Tensor

Loss = Literal["sigmoid", "softmax"]
_LOSSES = ("sigmoid", "softmax")


class _BagClassifier(DomainClassifier):
    """A table of embeddings under a linear layer, over bags of terms.

    Args:
        width: H.
        loss: `sigmoid` (one against the rest) or `softmax`.
        dropout: share of h that is dropped in training.
        epochs, batch, learning_rate: of the training.
        seed: of first weights, batches and dropout.
    """

    rectified: bool

    def __init__(
        self,
        *,
        width: int,
        loss: Loss,
        dropout: float,
        epochs: int,
        batch: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        if loss not in _LOSSES:
            raise RouterError(f"loss is {loss!r}, expected one of {list(_LOSSES)}")
        if width < 1 or epochs < 1 or batch < 1 or not 0 <= dropout < 1 or not learning_rate > 0:
            raise RouterError(
                f"width {width}, epochs {epochs}, batch {batch}, dropout {dropout}, learning_rate "
                f"{learning_rate}; expected 1 or more of the first three, a share below 1, above 0"
            )
        self.width = width
        self.loss: Loss = loss
        self.dropout = dropout
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.seed = seed

    @abstractmethod
    def _bags(self, texts: Sequence[str]) -> Any:
        """`[Q, V]` sparse weights of the rows of the table that each text reads."""

    @abstractmethod
    def _learn_terms(self, texts: Sequence[str]) -> int:
        """Learn which terms there are; how many."""

    def _learn(self, texts: tuple[str, ...], labels: Labels, n_domains: int) -> None:
        require_torch(self.kind)
        n_terms = self._learn_terms(texts)
        bags = self._bags(texts)
        generator = np.random.default_rng(self.seed)
        bound = 1.0 / np.sqrt(self.width)
        start = {
            "table": generator.normal(0.0, 0.1, (max(1, n_terms), self.width)),
            "shift": np.zeros(self.width),
            "weight": generator.uniform(-bound, bound, (self.width, n_domains)),
            "bias": np.zeros(n_domains),
        }
        if not self.rectified:
            del start["shift"]
        learned = train_head(
            self.kind,
            start,
            self._loss(bags, labels, n_domains),
            len(texts),
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        self.table_, self.weight_ = learned["table"], learned["weight"]
        self.bias_ = learned["bias"]
        self.shift_ = learned.get("shift", np.zeros(self.width, np.float32))

    def _loss(self, bags: Any, labels: Labels, n_domains: int) -> Any:
        import torch
        from torch.nn import functional as F

        ends = bags.indptr.tolist()
        ids = torch.from_numpy(bags.indices.astype(np.int64))
        weights = torch.from_numpy(bags.data.astype(np.float32))
        truth = torch.from_numpy(labels)
        keep = 1.0 - self.dropout

        def loss(p: dict[str, Tensor], batch: Tensor, generator: Generator) -> Tensor:
            parts = [slice(ends[i], ends[i + 1]) for i in batch.tolist()]
            starts = torch.tensor([0, *(s.stop - s.start for s in parts[:-1])]).cumsum(0)
            h = F.embedding_bag(
                torch.cat([ids[s] for s in parts]),
                p["table"],
                starts,
                mode="sum",
                per_sample_weights=torch.cat([weights[s] for s in parts]),
            )
            if self.rectified:
                h = torch.relu(h + p["shift"])
            if keep < 1.0 and torch.is_grad_enabled():
                h = h * (torch.rand(h.shape, generator=generator) < keep) / keep
            logits = h @ p["weight"] + p["bias"]
            if self.loss == "sigmoid":
                wanted = F.one_hot(truth[batch], n_domains).to(logits.dtype)
                return F.binary_cross_entropy_with_logits(logits, wanted)
            return F.cross_entropy(logits, truth[batch])

        return loss

    def _read(self, texts: tuple[str, ...]) -> tuple[FloatArray, NDArray[np.float32]]:
        h = np.asarray(self._bags(texts) @ self.table_, np.float32)
        if self.rectified:
            h = np.maximum(h + self.shift_, np.float32(0.0))
        return np.asarray(h @ self.weight_ + self.bias_, np.float64), h

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The table and the layer above it."""
        return {
            "table": self.table_,
            "shift": self.shift_,
            "weight": self.weight_,
            "bias": self.bias_,
        }

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self.table_, self.shift_ = arrays["table"], arrays["shift"]
        self.weight_, self.bias_ = arrays["weight"], arrays["bias"]


class WideMLP(_BagClassifier):
    """A bag of words under one wide hidden layer.

    Args:
        width: of the hidden layer.
        loss: `sigmoid` leaves every domain free to be unlikely; `softmax` does not.
        least: in how many training texts a word must stand to be read.
        most: words that are read at most.
        dropout, epochs, batch, learning_rate, seed: of the training.

    Raises:
        RouterError: a parameter is out of range.

    Example:
        >>> reader = WideMLP(width=32, epochs=30, least=1)
        >>> law, sums = ["the court ruled"] * 8, ["two plus two"] * 8
        >>> reader.fit([*law, *sums], ["law"] * 8 + ["sums"] * 8).read(["a court"]).logits.argmax()
        0
    """

    kind = "widemlp"
    rectified = True

    def __init__(
        self,
        *,
        width: int = 1024,
        loss: Loss = "sigmoid",
        least: int = 2,
        most: int = 30_000,
        dropout: float = 0.5,
        epochs: int = 20,
        batch: int = 32,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(
            width=width,
            loss=loss,
            dropout=dropout,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        if least < 1 or most < 1:
            raise RouterError(f"least is {least} and most {most}, expected 1 or more of each")
        self.least = least
        self.most = most

    def _learn_terms(self, texts: Sequence[str]) -> int:
        self.words_ = frequent_words(texts, least=self.least, most=self.most)
        self._places = {w: i for i, w in enumerate(self.words_)}
        counts = mean_bags(word_rows(texts, self._places), max(1, len(self.words_)))
        containing = counts.getnnz(axis=0)
        self.idf_ = (np.log((1 + len(texts)) / (1 + containing)) + 1).astype(np.float32)
        return len(self.words_)

    def _bags(self, texts: Sequence[str]) -> Any:
        return unit_bags(mean_bags(word_rows(texts, self._places), len(self.idf_)), self.idf_)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Words and layers."""
        return super().get_state() | {"words": names_to_array(self.words_), "idf": self.idf_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.words_, self.idf_ = names_from_array(arrays["words"]), arrays["idf"]
        self._places = {w: i for i, w in enumerate(self.words_)}


class FastText(_BagClassifier):
    """Words and runs of letters, hashed and averaged, under a linear layer.

    Args:
        width: of the embeddings.
        loss: see `WideMLP`; the authors' is `softmax`.
        buckets: into which terms are hashed.
        shortest, longest: runs of letters, the marks at the ends of a word included.
        epochs, batch, learning_rate, seed: of the training.

    Raises:
        RouterError: a parameter is out of range.
    """

    kind = "fasttext"
    rectified = False

    def __init__(
        self,
        *,
        width: int = 64,
        loss: Loss = "softmax",
        buckets: int = 2**18,
        shortest: int = 3,
        longest: int = 5,
        epochs: int = 15,
        batch: int = 64,
        learning_rate: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            width=width,
            loss=loss,
            dropout=0.0,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        if buckets < 1 or not 1 <= shortest <= longest:
            raise RouterError(
                f"buckets is {buckets}, runs are {shortest} to {longest} letters; expected 1 or "
                "more, and the shortest first"
            )
        self.buckets = buckets
        self.shortest = shortest
        self.longest = longest

    def _hashed(self, texts: Sequence[str]) -> list[NDArray[np.intp]]:
        return piece_rows(texts, buckets=self.buckets, shortest=self.shortest, longest=self.longest)

    def _learn_terms(self, texts: Sequence[str]) -> int:
        self.filled_ = np.unique(np.concatenate([*self._hashed(texts), np.zeros(0, np.intp)]))
        return len(self.filled_)

    def _bags(self, texts: Sequence[str]) -> Any:
        rows = []
        for hashed in self._hashed(texts):
            place = np.searchsorted(self.filled_, hashed)
            inside = place < len(self.filled_)
            hit = np.zeros(len(hashed), np.bool_)
            hit[inside] = self.filled_[place[inside]] == hashed[inside]
            rows.append(place[hit])
        return mean_bags(rows, max(1, len(self.filled_)))

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Filled buckets and layers."""
        return super().get_state() | {"filled": self.filled_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        super().set_state(arrays)
        self.filled_ = arrays["filled"]
