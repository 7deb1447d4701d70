"""Judges: how good an answer looks once it is there, and what that says about its quality.

A `Judge` reads an answer and returns a score. `JudgeModel` learns from recorded scores how far a
score moves the router's estimate (Platt scaling on both), and how the movements of different models
go together, which is the Sigma of cascade routing (arXiv 2410.10347, section 3).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.query.policy import PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, Estimate, FloatArray
    from wye.query.chat_models.base import Generation

_EDGE = 1e-3
_LEAST_ROWS = 100


@dataclass(frozen=True)
class Answer:
    """What a model answered, and all that was observed while it did.

    Attributes:
        model: who answered.
        text: the answer.
        confidence: what its target says of its own certainty, 0 to 1, if it does.
        log_probabilities: `[T]` of the tokens of the answer, where the backend gives them.
        runner_up: `[T]` of the best other token at each place, -inf where there is none.
        samples: further answers to the same query, drawn at a temperature above 0.
        sample_log_probabilities: of each sample as a whole sequence; none or as many as samples.
        hidden: `[D]` hidden state at the end of the answer, of a model in this process.
    """

    model: str
    text: str
    confidence: float | None = None
    log_probabilities: FloatArray | None = field(default=None, compare=False)
    runner_up: FloatArray | None = field(default=None, compare=False)
    samples: tuple[str, ...] = ()
    sample_log_probabilities: tuple[float, ...] = ()
    hidden: FloatArray | None = field(default=None, compare=False)

    @classmethod
    def of(cls, generation: Generation, samples: Sequence[Generation] = ()) -> Answer:
        """The answer of a chat model, with further samples of the same chat where there are any."""
        sums = tuple(
            float(s.log_probabilities.sum()) for s in samples if s.log_probabilities is not None
        )
        return cls(
            generation.model,
            generation.text,
            log_probabilities=generation.log_probabilities,
            runner_up=generation.runner_up,
            samples=tuple(s.text for s in samples),
            sample_log_probabilities=sums if len(sums) == len(samples) else (),
        )


class Judge(ABC):
    """Base of every judge, ours and third parties'.

    Attributes:
        cost: USD that one judgement takes.
        seconds: seconds that one judgement takes.
    """

    name: str
    cost: float = 0.0
    seconds: float = 0.0

    @abstractmethod
    def score(self, text: str, answer: Answer) -> float | None:
        """How much the answer to `text` is to be trusted, 0 to 1; None when it cannot be said."""


class ConfidenceJudge(Judge):
    """The confidence that comes with the answer itself, such as the share of a majority.

    Example:
        >>> ConfidenceJudge().score("2 + 2?", Answer("small", "4", confidence=0.8))
        0.8
    """

    name = "confidence"

    def score(self, text: str, answer: Answer) -> float | None:
        """The answer's own confidence."""
        return answer.confidence


@dataclass(frozen=True)
class JudgeModel:
    """What a judge's score means for the quality of each model's answer.

    The quality after judging is sigmoid(bias_m + prior_m logit q + score_m logit s) for the
    estimate q and the score s. Its movement, divided by sqrt(q (1 - q)), has the standard deviation
    `strength_m` and the correlations `correlation` between models.

    Attributes:
        models: M names.
        bias, prior, score: `[M]` the coefficients.
        strength: `[M]` 0 for a judge that says nothing new, 1 for one that always knows.
        correlation: `[M, M]`, positive semi-definite, ones on the diagonal.
        rows: `[M]` how many answers each model's coefficients rest on.
    """

    models: tuple[str, ...]
    bias: FloatArray
    prior: FloatArray
    score: FloatArray
    strength: FloatArray
    correlation: FloatArray
    rows: FloatArray

    @classmethod
    def fit(cls, estimate: Estimate, quality: FloatArray, confidence: FloatArray) -> JudgeModel:
        """Learn from answers that the router was not fitted on.

        A model with fewer than 100 judged answers, or only right or only wrong ones, takes the
        coefficients of all models together.

        Args:
            estimate: of Q queries.
            quality: `[Q, M]` what came out, NaN where unknown.
            confidence: `[Q, M]` the judge's scores, 0 to 1, NaN where there is none.

        Raises:
            PolicyError: shapes differ, a score outside 0 to 1, or nothing to learn from.
        """
        shape = estimate.quality.shape
        for name, array in (("quality", quality), ("confidence", confidence)):
            if array.shape != shape:
                raise PolicyError(f"judge: {name} has shape {array.shape}, expected {shape}")
        known = np.isfinite(quality) & np.isfinite(confidence)
        if bool(((confidence < 0) | (confidence > 1))[known].any()):
            raise PolicyError("judge: confidence must lie from 0 to 1")
        if not _learnable(quality[known]):
            raise PolicyError(
                f"judge: {int(known.sum())} judged answers that are all right or all wrong teach "
                "nothing; give held-out outcomes with a confidence and with both kinds"
            )
        coefficients = _per_model(estimate.quality, confidence, quality, known)
        unit = JudgeModel(
            estimate.models,
            coefficients[:, 0],
            coefficients[:, 1],
            coefficients[:, 2],
            np.zeros(shape[1]),
            np.eye(shape[1]),
            known.sum(axis=0).astype(np.float64),
        )
        posterior = unit.posterior(estimate.quality, np.where(known, confidence, 0.5))
        # Against the estimate put right without the score: what merely corrects the estimate was
        # known before judging and is no news.
        blind = np.full(shape, 0.5)
        bias, prior, _ = _per_model(estimate.quality, blind, quality, known).T
        before = 1.0 / (1.0 + np.exp(-(bias + prior * _logit(estimate.quality))))
        movement = np.where(known, (posterior - before) / _scale(estimate.quality), np.nan)
        strength, correlation = _spread(movement)
        return JudgeModel(
            unit.models, unit.bias, unit.prior, unit.score, strength, correlation, unit.rows
        )

    def posterior(self, quality: FloatArray, confidence: FloatArray) -> FloatArray:
        """Quality after judging: `[..., M]` estimates and scores to `[..., M]`; NaN scores keep."""
        z = self.bias + self.prior * _logit(quality) + self.score * _logit(confidence)
        return np.where(np.isnan(confidence), quality, 1.0 / (1.0 + np.exp(-z)))

    def covariance(self, quality: FloatArray) -> FloatArray:
        """`[Q, M, M]` of the movements that judging will make at the estimates `[Q, M]`."""
        scale = self.strength * _scale(quality)
        return scale[:, :, None] * self.correlation * scale[:, None, :]

    def restrict(self, models: tuple[str, ...]) -> JudgeModel:
        """The same for `models`, in that order.

        Raises:
            PolicyError: a model was not among those it learned.
        """
        if models == self.models:
            return self
        unknown = [m for m in models if m not in self.models]
        if unknown:
            raise PolicyError(
                f"judge: never saw answers of {unknown}, only of {list(self.models)}; fit again "
                "with them, or leave them out"
            )
        at = [self.models.index(m) for m in models]
        return JudgeModel(
            models,
            self.bias[at],
            self.prior[at],
            self.score[at],
            self.strength[at],
            self.correlation[np.ix_(at, at)],
            self.rows[at],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; `from_dict` reads it."""
        arrays = ("bias", "prior", "score", "strength", "correlation", "rows")
        return {"models": list(self.models)} | {a: getattr(self, a).tolist() for a in arrays}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> JudgeModel:
        """What `to_dict` gave."""
        return cls(
            tuple(value["models"]),
            *(
                np.asarray(value[a], dtype=np.float64)
                for a in ("bias", "prior", "score", "strength", "correlation", "rows")
            ),
        )


def _logit(p: FloatArray) -> FloatArray:
    clipped = np.clip(p, _EDGE, 1.0 - _EDGE)
    return np.log(clipped / (1.0 - clipped))


def _scale(quality: FloatArray) -> FloatArray:
    return np.sqrt(np.clip(quality * (1.0 - quality), _EDGE, None))


def _learnable(quality: FloatArray) -> bool:
    return bool(quality.size) and 0.0 < float(quality.mean()) < 1.0


def _per_model(
    estimate: FloatArray, confidence: FloatArray, quality: FloatArray, known: BoolArray
) -> FloatArray:
    """Coefficients `[M, 3]`: bias, of the estimate's logit, of the score's logit."""
    coefficients = np.tile(
        _platt(estimate[known], confidence[known], quality[known]), (estimate.shape[1], 1)
    )
    for m in range(estimate.shape[1]):
        rows = known[:, m]
        if rows.sum() >= _LEAST_ROWS and _learnable(quality[rows, m]):
            coefficients[m] = _platt(estimate[rows, m], confidence[rows, m], quality[rows, m])
    return coefficients


def _platt(estimate: FloatArray, confidence: FloatArray, quality: FloatArray) -> FloatArray:
    from sklearn.linear_model import LogisticRegression

    features = np.column_stack([_logit(estimate), _logit(confidence)])
    # A fractional quality is that share of a right answer and the rest of a wrong one.
    both = np.concatenate([features, features])
    label = np.repeat([1, 0], quality.shape[0])
    weight = np.concatenate([quality, 1.0 - quality])
    used = weight > 0
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(
        both[used], label[used], sample_weight=weight[used]
    )
    return np.array([fitted.intercept_[0], *fitted.coef_[0]])


def _spread(movement: FloatArray) -> tuple[FloatArray, FloatArray]:
    known = np.isfinite(movement)
    filled = np.where(known, movement, 0.0)
    count = known.sum(axis=0)
    strength = np.sqrt((filled**2).sum(axis=0) / np.maximum(count, 1))
    together = known.astype(np.float64).T @ known
    scale = np.maximum(strength, 1e-9)
    correlation = (filled.T @ filled) / np.maximum(together, 1) / np.outer(scale, scale)
    # Few common queries say little about how two models go together.
    correlation *= together / (together + 20.0)
    np.fill_diagonal(correlation, 1.0)
    return np.minimum(strength, 1.0), _nearest_correlation(correlation)


def _nearest_correlation(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    fixed: FloatArray = (vectors * np.clip(values, 1e-9, None)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    unit: FloatArray = fixed / np.outer(scale, scale)
    return unit
