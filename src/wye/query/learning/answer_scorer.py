"""How likely an answer is right, from the question, the answer and what was observed of it.

A head on embeddings of both texts, learned for one model or for many. FrugalGPT (arXiv 2305.05176)
fine-tunes an encoder for this; the same code with an embedder of that encoder's vectors is the
same scorer. It predicts with NumPy alone.

    x = [e_q, e_a, sqrt(D) e_q * e_a, features of a, observed],   score = sigmoid(head(x))

Shape letters: N answers, D embedding width, X observed figures, F hidden width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, get_embedder
from wye.query.base import FloatArray, NotFittedError, RouterError
from wye.query.learning.answer_figures import FigureScale, figures_of
from wye.query.learning.estimator import folds
from wye.query.learning.named_arrays import restored_embedder, together, under

STRENGTHS = (0.01, 0.1, 1.0)
CHOOSING_ANSWERS = 2000
_FOLDS = 3


class AnswerScorer:
    """Score answers 0 (wrong) to 1 (right).

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        hidden: width of a hidden layer; 0 for logistic regression.
        strength: inverse weight of the penalty; chosen by cross-validated log-loss when None.
        most_answers: that are learned from, drawn at random where there are more.
        seed: of folds and of the hidden layer's first weights.

    Example:
        >>> questions = [f"{i} + 1" for i in range(40)]
        >>> answers = ["yes" if i % 2 else "a long story" for i in range(40)]
        >>> scorer = AnswerScorer().fit(questions, answers, np.arange(40.0) % 2)
        >>> low, high = scorer.score(["50 + 1"] * 2, ["a long story", "yes"])
        >>> bool(low < 0.5 < high)
        True
    """

    def __init__(
        self,
        *,
        embedder: str | Embedder = "static",
        hidden: int = 0,
        strength: float | None = None,
        most_answers: int = 6000,
        seed: int = 0,
    ) -> None:
        if hidden < 0 or (strength is not None and not strength > 0) or most_answers < 1:
            raise RouterError(
                f"hidden={hidden}, strength={strength}, most_answers={most_answers}; expected at "
                "least 0, above 0 or None, and at least 1"
            )
        self.embedder = embedder
        self.hidden = hidden
        self.strength = strength
        self.most_answers = most_answers
        self.seed = seed

    def fit(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        right: FloatArray,
        observed: FloatArray | None = None,
    ) -> Self:
        """Learn from N graded answers.

        Args:
            questions, answers: N each.
            right: `[N]` quality of each answer, 0 to 1.
            observed: `[N, X]` what else is known of each answer (log-probability, agreement).

        Raises:
            RouterError: lengths differ, nothing to learn from, or a figure that is not finite.
        """
        self._learn(questions, answers, right, observed)
        return self

    def fit_out_of_fold(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        right: FloatArray,
        observed: FloatArray | None = None,
        *,
        n_folds: int = 3,
    ) -> FloatArray:
        """`fit`, and `[N]` scores of the same answers by heads that had not seen them.

        Raises:
            RouterError: as `fit`, or fewer answers than folds, or fewer folds than two.
        """
        if not 2 <= n_folds <= len(questions):
            raise RouterError(f"n_folds={n_folds} for {len(questions)} answers, expected 2 to that")
        x = self._learn(questions, answers, right, observed)
        score = np.empty(len(x))
        for part in folds(len(x), n_folds, self.seed):
            rest = np.setdiff1d(np.arange(len(x)), part)
            score[part] = self._head(x[rest], right[rest], self.strength_)(x[part])
        return score

    def _learn(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        right: FloatArray,
        observed: FloatArray | None,
    ) -> NDArray[np.float32]:
        """Fit, and the columns that were read."""
        right = np.asarray(right, np.float64)
        if right.shape != (len(questions),) or not len(right):
            raise RouterError(f"right has shape {right.shape} for {len(questions)} questions")
        if not np.isfinite(right).all() or right.min() < 0 or right.max() > 1:
            raise RouterError("right must lie within 0 and 1; leave out answers nobody graded")
        self.embedder_ = get_embedder(self.embedder).fit([*questions, *answers])
        raw = self._raw(questions, answers, observed)
        self.scale_ = FigureScale().fit(raw)
        x = self._columns(questions, answers, raw)
        chosen = self._chosen_strength(x, right) if self.strength is None else self.strength
        self.strength_ = chosen
        self.head_ = self._head(x, right, chosen)
        return x

    def score(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        observed: FloatArray | None = None,
    ) -> FloatArray:
        """`[N]` probability that each answer is right.

        Raises:
            NotFittedError: before `fit`.
            RouterError: lengths differ, or `observed` is not as in training.
        """
        self._require_fitted()
        if not len(questions):
            return np.zeros(0)
        raw = self._raw(questions, answers, observed)
        return self.head_(self._columns(questions, answers, raw))

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values.

        Raises:
            NotFittedError: before `fit`.
        """
        self._require_fitted()
        parts = {
            "scale": self.scale_.get_state(),
            "embedder": self.embedder_.get_state(),
            "head": self.head_.get_state(),
        }
        return together(parts), {"embedder": self.embedder_.name, "strength": self.strength_}

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the scorer was learned with another embedder.
        """
        self.embedder_ = restored_embedder(
            self.embedder, values["embedder"], under("embedder/", arrays)
        )
        self.scale_ = FigureScale()
        self.scale_.set_state(under("scale/", arrays))
        self.strength_ = values["strength"]
        self.head_ = _restored_head(under("head/", arrays))

    def _require_fitted(self) -> None:
        if not hasattr(self, "head_"):
            raise NotFittedError("the answer scorer is not fitted; call fit first")

    def _raw(
        self, questions: Sequence[str], answers: Sequence[str], observed: FloatArray | None
    ) -> FloatArray:
        if len(questions) != len(answers):
            raise RouterError(f"{len(questions)} questions and {len(answers)} answers")
        return figures_of(answers, observed)

    def _columns(
        self, questions: Sequence[str], answers: Sequence[str], raw: FloatArray
    ) -> NDArray[np.float32]:
        standard = self.scale_.apply(raw)
        e_q, e_a = self.embedder_.embed(questions), self.embedder_.embed(answers)
        together = e_q * e_a * np.float32(np.sqrt(e_q.shape[1]))
        return np.concatenate([e_q, e_a, together, standard], axis=1).astype(np.float32)

    def _chosen_strength(self, x: NDArray[np.float32], right: FloatArray) -> float:
        if len(x) < 4 * _FOLDS:
            return STRENGTHS[0]
        some = np.random.default_rng(self.seed).permutation(len(x))[:CHOOSING_ANSWERS]
        x, right = x[some], right[some]
        losses = dict.fromkeys(STRENGTHS, 0.0)
        for part in folds(len(x), _FOLDS, self.seed):
            rest = np.setdiff1d(np.arange(len(x)), part)
            for strength in STRENGTHS:
                p = np.clip(self._head(x[rest], right[rest], strength)(x[part]), 1e-6, 1 - 1e-6)
                y = right[part]
                losses[strength] -= float((y * np.log(p) + (1 - y) * np.log(1 - p)).sum())
        return min(losses, key=lambda s: losses[s])

    def _head(
        self, x: NDArray[np.float32], right: FloatArray, strength: float
    ) -> _Layers | _Constant:
        if len(np.unique(right)) < 2:
            return _Constant(float(np.clip(right.mean(), 1e-3, 1 - 1e-3)))
        if len(x) > self.most_answers:
            some = np.random.default_rng(self.seed).permutation(len(x))[: self.most_answers]
            x, right = x[some], right[some]
        if self.hidden:
            return _network(x, right, strength, self.hidden, self.seed)
        return _logistic(x, right, strength)


class _Constant:
    """Answers that were all alike teach nothing else."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, x: NDArray[np.float32]) -> FloatArray:
        return np.full(len(x), self.level)

    def get_state(self) -> dict[str, NDArray[Any]]:
        return {"level": np.array([self.level])}


class _Layers:
    """Rectified layers and a logistic output."""

    def __init__(self, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
        self.layers = layers

    def __call__(self, x: NDArray[np.float32]) -> FloatArray:
        *hidden, (weight, bias) = self.layers
        for inner, shift in hidden:
            x = np.maximum(x @ inner + shift, 0.0)
        z = np.clip((x @ weight + bias)[:, 0].astype(np.float64), -30.0, 30.0)
        return np.asarray(1.0 / (1.0 + np.exp(-z)), np.float64)

    def get_state(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for n, (weight, bias) in enumerate(self.layers):
            arrays |= {f"weight{n}": weight, f"bias{n}": bias}
        return arrays


def _restored_head(arrays: Mapping[str, NDArray[Any]]) -> _Layers | _Constant:
    if "level" in arrays:
        return _Constant(float(arrays["level"][0]))
    count = len(arrays) // 2
    return _Layers([(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range(count)])


def _logistic(x: NDArray[np.float32], right: FloatArray, strength: float) -> _Layers:
    from sklearn.linear_model import LogisticRegression

    rows, label = np.tile(np.arange(len(x)), 2), np.repeat([1, 0], len(x))
    weight = np.concatenate([right, 1.0 - right])
    kept = weight > 0
    fitted = LogisticRegression(C=strength, max_iter=300).fit(
        x[rows[kept]], label[kept], weight[kept]
    )
    return _Layers([(fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32))])


def _network(
    x: NDArray[np.float32], right: FloatArray, strength: float, hidden: int, seed: int
) -> _Layers | _Constant:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    label = right >= 0.5
    if label.all() or not label.any():
        return _Constant(float(np.clip(right.mean(), 1e-3, 1 - 1e-3)))
    network = MLPClassifier((hidden,), alpha=1.0 / strength, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        # The number of epochs is a bound on time, not a promise of convergence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x, label)
    pairs = zip(network.coefs_, network.intercepts_, strict=True)
    return _Layers([(w.astype(np.float32), b.astype(np.float32)) for w, b in pairs])
