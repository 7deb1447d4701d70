"""Token probabilities: an answer is trusted as far as its model was sure of its tokens.

Scores an answer after generation, on the log-probabilities of its tokens; trained only where it
combines them. U1 and U2 of the survey arXiv 2603.04445; quantiles instead of one sum because long
answers always have some unlikely token: Gupta et al., Language Model Cascades: Token-level
uncertainty and beyond, arXiv 2404.10136.

    mean      exp(1/T sum_t log p_t)          least   min_t p_t
    sequence  prod_t p_t                      (favours short answers: normalise, or take `mean`)
    quantiles sigmoid(w . z(Q) + b)           Q = quantiles 0, 0.1, ..., 1 of log p_1 ... log p_T
    margin    max(0, p_t - runner-up_t)       at the answer's token, its least or its mean

Ours: z standardises by the training answers, the logistic model carries scikit-learn's L2 of C = 1,
and a sampled token that is not the likeliest has margin 0.

Shape letters: T tokens, n answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError

ProbabilityKind = Literal["mean", "least", "sequence"]
MarginKind = Literal["first", "least", "mean"]
QUANTILES = np.linspace(0.0, 1.0, 11)
_FLOOR = -100.0


def token_probability(log_probabilities: FloatArray, kind: ProbabilityKind = "mean") -> float:
    """Probability of the answer per token, of its least likely token, or as a whole.

    Args:
        log_probabilities: `[T]`, natural logarithms, T at least 1.
        kind: `mean`, `least` or `sequence`.

    Raises:
        PolicyError: no tokens, a value above 0 or NaN, or an unknown kind.

    Example:
        >>> round(token_probability(np.log([0.5, 0.125]), "mean"), 6)
        0.25
    """
    said = _checked(log_probabilities)
    if kind == "mean":
        return float(np.exp(said.mean()))
    if kind == "least":
        return float(np.exp(said.min()))
    if kind == "sequence":
        return float(np.exp(said.sum()))
    raise PolicyError(f"kind={kind!r}, expected one of {list(get_args(ProbabilityKind))}")


def token_margin(
    log_probabilities: FloatArray, runner_up: FloatArray, kind: MarginKind = "least"
) -> float:
    """How far the tokens written lie above the best others, in probability.

    Args:
        log_probabilities: `[T]` of the tokens written.
        runner_up: `[T]` of the best other token at each place, -inf where there is none.
        kind: at the `first` token (an answer of one token), the `least` or the `mean` of all.

    Raises:
        PolicyError: shapes differ, values that are no log-probabilities, or an unknown kind.
    """
    said, other = _checked(log_probabilities), np.asarray(runner_up, np.float64)
    if other.shape != said.shape or np.isnan(other).any():
        raise PolicyError(f"runner_up has shape {other.shape} or NaN, expected {said.shape}")
    margin = np.maximum(np.exp(said) - np.exp(other), 0.0)
    if kind == "first":
        return float(margin[0])
    if kind == "least":
        return float(margin.min())
    if kind == "mean":
        return float(margin.mean())
    raise PolicyError(f"kind={kind!r}, expected one of {list(get_args(MarginKind))}")


def quantile_features(log_probabilities: FloatArray) -> FloatArray:
    """`[11]` quantiles 0, 0.1, ..., 1 of the log-probabilities of an answer, -100 at least."""
    return np.asarray(np.quantile(_checked(log_probabilities), QUANTILES), np.float64)


@dataclass(frozen=True)
class QuantileModel:
    """A logistic model on quantiles of token log-probabilities: P(right).

    Attributes:
        centre, spread: `[11]` of the training answers.
        weight: `[11]`.
        bias: intercept.
    """

    centre: FloatArray
    spread: FloatArray
    weight: FloatArray
    bias: float

    @classmethod
    def fit(cls, answers: Sequence[FloatArray], right: FloatArray) -> QuantileModel:
        """Learn from the log-probabilities `[T]` of n answers and whether each was right `[n]`.

        Raises:
            PolicyError: other lengths, or answers all right or all wrong.
        """
        from sklearn.linear_model import LogisticRegression

        label = _labels(right, len(answers))
        features = np.stack([quantile_features(a) for a in answers])
        centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        fitted = LogisticRegression(max_iter=1000).fit((features - centre) / spread, label)
        return cls(centre, spread, fitted.coef_[0], float(fitted.intercept_[0]))

    def score(self, log_probabilities: FloatArray) -> float:
        """Probability that the answer is right."""
        z = (quantile_features(log_probabilities) - self.centre) / self.spread
        return float(1.0 / (1.0 + np.exp(-np.clip(z @ self.weight + self.bias, -30.0, 30.0))))

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; `from_dict` reads it."""
        arrays = ("centre", "spread", "weight")
        return {a: getattr(self, a).tolist() for a in arrays} | {"bias": self.bias}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> QuantileModel:
        """What `to_dict` gave."""
        centre, spread, weight = (
            np.asarray(value[a], np.float64) for a in ("centre", "spread", "weight")
        )
        return cls(centre, spread, weight, float(value["bias"]))


class TokenProbabilityJudge(Judge):
    """U1: `token_probability` of the answer; None where its backend gave no log-probabilities.

    Example:
        >>> answer = Answer("small", "4", log_probabilities=np.log([0.9, 0.8]))
        >>> round(TokenProbabilityJudge("least").score("2 + 2?", answer), 3)
        0.8
    """

    name = "token-probability"

    def __init__(self, kind: ProbabilityKind = "mean") -> None:
        if kind not in get_args(ProbabilityKind):
            raise PolicyError(f"kind={kind!r}, expected one of {list(get_args(ProbabilityKind))}")
        self.kind: ProbabilityKind = kind

    def score(self, text: str, answer: Answer) -> float | None:
        """The probability of the answer's tokens."""
        said = answer.log_probabilities
        return None if said is None or not len(said) else token_probability(said, self.kind)


class QuantileJudge(Judge):
    """U1 with quantile features: a `QuantileModel` as a judge."""

    name = "token-quantiles"

    def __init__(self, model: QuantileModel) -> None:
        self.model = model

    def score(self, text: str, answer: Answer) -> float | None:
        """The probability that the answer is right, from the quantiles of its tokens."""
        said = answer.log_probabilities
        return None if said is None or not len(said) else self.model.score(said)


class MarginJudge(Judge):
    """U2: `token_margin` of the answer; None where its backend gave no runners-up."""

    name = "token-margin"

    def __init__(self, kind: MarginKind = "least") -> None:
        if kind not in get_args(MarginKind):
            raise PolicyError(f"kind={kind!r}, expected one of {list(get_args(MarginKind))}")
        self.kind: MarginKind = kind

    def score(self, text: str, answer: Answer) -> float | None:
        """How far the answer's tokens lie above the best others."""
        said, other = answer.log_probabilities, answer.runner_up
        if said is None or other is None or not len(said):
            return None
        return token_margin(said, other, self.kind)


def _checked(log_probabilities: FloatArray) -> FloatArray:
    said = np.asarray(log_probabilities, np.float64)
    # Rounding puts a certain token a hair above 0.
    if said.ndim != 1 or not said.size or np.isnan(said).any() or (said > 1e-3).any():
        raise PolicyError(
            f"log_probabilities have shape {said.shape}, expected [T] natural logarithms of "
            "probabilities (at most 0) of at least one token"
        )
    return np.clip(said, _FLOOR, 0.0)


def _labels(right: FloatArray, n: int) -> NDArray[np.intp]:
    label = np.asarray(right, np.float64)
    if label.shape != (n,) or not np.isfinite(label).all() or len(np.unique(label >= 0.5)) < 2:
        raise PolicyError(
            f"right has shape {label.shape} for {n} answers, expected one known outcome each, some "
            "right and some wrong"
        )
    return (label >= 0.5).astype(np.intp)
