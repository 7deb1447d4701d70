"""PairRanker: the answers to a question ranked by comparing them in pairs.

Source: LLM-Blender, Jiang, Ren and Lin, arXiv 2306.02561 (equations and what is ours in
`wye.query.llm_blender`).

Shape letters: Q queries, K answers to each, N pairs, D embedding width, X observed figures, F
hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, get_embedder
from wye.query.answers.voting import IntArray
from wye.query.base import FloatArray, NotFittedError, RouterError
from wye.query.learning.answer_figures import FigureScale, figures_of
from wye.query.learning.heads import require_torch, train_head
from wye.query.learning.named_arrays import restored_embedder, together, under
from wye.query.stored_system import StoredSystem

if TYPE_CHECKING:
    from torch import Generator, Tensor

Floats32 = NDArray[np.float32]
_NAME = "LLM-Blender"


@dataclass(frozen=True)
class _Answers:
    """Questions `[Q, D]`, answers `[Q, K, D]` and figures of the answers `[Q, K, Z]`."""

    question: Floats32
    answer: Floats32
    figures: Floats32


class PairRanker(StoredSystem):
    """Rank the answers to a question by comparing them in pairs.

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        hidden: width F of the network; 0 for a linear one.
        epochs, learning_rate, weight_decay: of its training; it stops early on a held-out tenth.
        most_pairs: that are learned from, drawn at random where there are more.
        seed: of weights, order, the held-out part and the pairs drawn.

    Raises:
        RouterError: a parameter out of range.
    """

    def __init__(
        self,
        *,
        embedder: str | Embedder = "static",
        hidden: int = 64,
        epochs: int = 30,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        most_pairs: int = 20_000,
        seed: int = 0,
    ) -> None:
        if hidden < 0 or epochs < 1 or most_pairs < 1:
            raise RouterError(
                f"hidden={hidden}, epochs={epochs}, most_pairs={most_pairs}; expected at least 0, "
                "1 and 1"
            )
        self.embedder = embedder
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.most_pairs = most_pairs
        self.seed = seed

    def fit(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        quality: FloatArray,
        observed: FloatArray | None = None,
    ) -> Self:
        """Learn from graded answers, all pairs of a question that differ in quality.

        Args:
            questions: Q.
            answers: Q rows of K, K at least 2.
            quality: `[Q, K]`, NaN for an answer nobody graded.
            observed: `[Q, K, X]` what else is known of each answer.

        Raises:
            RouterError: shapes do not fit, no pair differs, or PyTorch is not installed.
        """
        require_torch(_NAME)
        if quality.shape != (len(questions), len(answers[0]) if len(answers) else 0):
            raise RouterError(f"quality has shape {quality.shape} for {len(questions)} questions")
        self.embedder_ = get_embedder(self.embedder).fit(
            [*questions, *(a for row in answers for a in row)]
        )
        raw = self._raw(answers, observed)
        self.scale_ = FigureScale().fit(raw.reshape(-1, raw.shape[-1]))
        read = self._read(questions, answers, raw)
        rows, first, second = _pairs_that_differ(quality)
        if not len(rows):
            raise RouterError("no two answers to a question differ in quality; nothing to rank")
        if len(rows) > self.most_pairs:
            drawn = np.random.default_rng(self.seed).permutation(len(rows))[: self.most_pairs]
            rows, first, second = rows[drawn], first[drawn], second[drawn]
        label = (quality[rows, first] > quality[rows, second]).astype(np.float32)
        self.network_ = self._trained(read, rows, first, second, label)
        return self

    def compare(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        observed: FloatArray | None = None,
    ) -> FloatArray:
        """`[Q, K, K]` s(q, a, b), positive where answer a is better; antisymmetric.

        Raises:
            NotFittedError: before `fit`.
            RouterError: shapes do not fit.
        """
        self._require_fitted()
        read = self._read(questions, answers, self._raw(answers, observed))
        n_queries, n_answers = read.answer.shape[:2]
        found = np.zeros((n_queries, n_answers, n_answers))
        rows = np.arange(n_queries)
        for a, b in combinations(range(n_answers), 2):
            there = _columns(read, rows, np.full(n_queries, a), np.full(n_queries, b))
            back = _columns(read, rows, np.full(n_queries, b), np.full(n_queries, a))
            s = _forward(self.network_, there) - _forward(self.network_, back)
            found[:, a, b], found[:, b, a] = s, -s
        return found

    def rank(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        observed: FloatArray | None = None,
    ) -> IntArray:
        """`[Q, K]` places of the answers, the best first (`rank_by_wins` of `compare`)."""
        return rank_by_wins(self.compare(questions, answers, observed))

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The network, and what puts figures on its scale.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        parts = {
            "scale": self.scale_.get_state(),
            "embedder": self.embedder_.get_state(),
            "network": self.network_,
        }
        return together(parts), {"embedder": self.embedder_.name}

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the ranker was learned with another embedder.
        """
        self.embedder_ = restored_embedder(
            self.embedder, values["embedder"], under("embedder/", arrays)
        )
        self.scale_ = FigureScale()
        self.scale_.set_state(under("scale/", arrays))
        self.network_ = under("network/", arrays)

    def _require_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise NotFittedError("the pair ranker is not fitted; call fit first")

    def _raw(self, answers: Sequence[Sequence[str]], observed: FloatArray | None) -> FloatArray:
        widths = {len(row) for row in answers}
        if len(widths) != 1 or min(widths) < 2:
            raise RouterError(f"rows of {sorted(widths)} answers, expected one length, 2 or more")
        shape = (len(answers), widths.pop())
        flat = [a for row in answers for a in row]
        if observed is None:
            return figures_of(flat).reshape(*shape, -1)
        seen = np.asarray(observed, np.float64)
        if seen.ndim != 3 or seen.shape[:2] != shape or not np.isfinite(seen).all():
            raise RouterError(f"observed has shape {seen.shape}, expected finite {(*shape, 'X')}")
        return figures_of(flat, seen.reshape(len(flat), -1)).reshape(*shape, -1)

    def _read(
        self, questions: Sequence[str], answers: Sequence[Sequence[str]], raw: FloatArray
    ) -> _Answers:
        if len(questions) != len(answers):
            raise RouterError(f"{len(questions)} questions and {len(answers)} rows of answers")
        figures = self.scale_.apply(raw.reshape(-1, raw.shape[-1])).reshape(raw.shape)
        vectors = self.embedder_.embed([a for row in answers for a in row])
        return _Answers(
            self.embedder_.embed(questions),
            vectors.reshape(*raw.shape[:2], -1),
            figures.astype(np.float32),
        )

    def _trained(
        self, read: _Answers, rows: IntArray, first: IntArray, second: IntArray, label: Floats32
    ) -> dict[str, Floats32]:
        torch = require_torch(_NAME)
        width = _columns(read, rows[:1], first[:1], second[:1]).shape[1]
        rng = np.random.default_rng(self.seed)
        arrays: dict[str, NDArray[Any]] = {}
        last = width
        if self.hidden:
            arrays["inner"] = rng.normal(0.0, width**-0.5, (width, self.hidden))
            arrays["shift"] = np.zeros(self.hidden)
            last = self.hidden
        arrays["outer"] = rng.normal(0.0, last**-0.5, last) * bool(self.hidden)

        def f(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            if "inner" in parameters:
                x = torch.relu(x @ parameters["inner"] + parameters["shift"])
            value: Tensor = x @ parameters["outer"]
            return value

        def loss(parameters: dict[str, Tensor], part: Tensor, generator: Generator) -> Tensor:
            del generator
            at = part.numpy()
            r, a, b = rows[at], first[at], second[at]
            s = f(parameters, torch.from_numpy(_columns(read, r, a, b)))
            s = s - f(parameters, torch.from_numpy(_columns(read, r, b, a)))
            target = torch.from_numpy(label[at])
            found: Tensor = torch.nn.functional.binary_cross_entropy_with_logits(s, target)
            return found

        return train_head(
            _NAME,
            arrays,
            loss,
            len(rows),
            epochs=self.epochs,
            batch=128,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            held_out_share=0.1 if len(rows) >= 50 else 0.0,
            seed=self.seed,
        )


def rank_by_wins(comparison: FloatArray) -> IntArray:
    """`[Q, K]` places, best first: by comparisons won, then by the sum of s, then by place.

    Args:
        comparison: `[Q, K, K]` s, positive where the row's answer is better than the column's.

    Example:
        >>> s = np.array([[[0.0, -1.0, 0.5], [1.0, 0.0, 2.0], [-0.5, -2.0, 0.0]]])
        >>> rank_by_wins(s).tolist()
        [[1, 0, 2]]
    """
    if comparison.ndim != 3 or comparison.shape[1] != comparison.shape[2]:
        raise RouterError(f"comparison has shape {comparison.shape}, expected [Q, K, K]")
    if not np.isfinite(comparison).all():
        raise RouterError("comparisons must be finite")
    wins, total = (comparison > 0).sum(axis=2), comparison.sum(axis=2)
    return np.asarray(np.lexsort((-total, -wins), axis=1), np.intp)


def _pairs_that_differ(quality: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
    """Rows and both places of all pairs of graded answers of different quality."""
    a, b = np.triu_indices(quality.shape[1], 1)
    difference = quality[:, a] - quality[:, b]
    rows, pair = np.nonzero(np.isfinite(difference) & (difference != 0))
    return rows, a[pair], b[pair]


def _columns(read: _Answers, rows: IntArray, a: IntArray, b: IntArray) -> Floats32:
    """`[N, 5 D + 2 Z]` what f reads of a question and two of its answers, in this order."""
    e_q, e_a, e_b = read.question[rows], read.answer[rows, a], read.answer[rows, b]
    # Products of unit vectors are small; at this scale they weigh as much as the vectors.
    scale = np.float32(np.sqrt(e_q.shape[1]))
    parts = [
        e_q,
        e_a,
        e_b,
        e_q * (e_a - e_b) * scale,
        e_a * e_b * scale,
        read.figures[rows, a],
        read.figures[rows, b],
    ]
    return np.concatenate(parts, axis=1)


def _forward(network: dict[str, Floats32], x: Floats32) -> FloatArray:
    if "inner" in network:
        x = np.maximum(x @ network["inner"] + network["shift"], 0.0)
    return np.asarray(x @ network["outer"], np.float64)
