"""Confidence token: a model learns to say after its answer whether it is sure.

Scores an answer in the step after its last token. Chuang et al., Learning to Route with Confidence
Tokens (Self-REF), arXiv 2410.13284. The model answers training questions; each answer is followed
by <CN> where it was right and by <UN> where not, and the model is fine-tuned on it with

    loss on the answer and <CN>   where it was right
    loss on <UN> alone            where it was wrong, so that no wrong answer is learned
    score = P(<CN>) / (P(<CN>) + P(<UN>))

`confidence_targets` makes such sequences with that mask for any decoder. `ConfidenceHead` is the
same question to a frozen model: two label logits on its hidden state after the answer, trained on
the same labels; with two labels the ratio above is the logistic function of their difference.

Shape letters: n answers, D width of a hidden state, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError


@dataclass(frozen=True)
class ConfidenceTargets:
    """One training sequence.

    Attributes:
        ids: `[T]` prompt, answer, and <CN> or <UN>.
        counted: `[T]` tokens whose loss counts.
    """

    ids: NDArray[np.int64]
    counted: NDArray[np.bool_]


def confidence_targets(
    prompt: Sequence[int], answer: Sequence[int], right: bool, *, sure: int, unsure: int
) -> ConfidenceTargets:
    """The sequence and the mask of the loss for one answer that the model gave.

    Args:
        prompt, answer: token ids, the answer's end included where the model writes one.
        right: whether the answer was.
        sure, unsure: ids of <CN> and <UN>.

    Raises:
        PolicyError: <CN> and <UN> are the same, or occur in the texts.

    Example:
        >>> wrong = confidence_targets([5, 6], [7], False, sure=1, unsure=2)
        >>> wrong.ids.tolist(), wrong.counted.tolist()
        ([5, 6, 7, 2], [False, False, False, True])
    """
    if sure == unsure or {sure, unsure} & {*prompt, *answer}:
        raise PolicyError(
            f"sure={sure} and unsure={unsure}, expected two tokens of their own that no text holds"
        )
    ids = np.array([*prompt, *answer, sure if right else unsure], np.int64)
    counted = np.zeros(ids.shape, np.bool_)
    counted[len(prompt) if right else -1 :] = True
    return ConfidenceTargets(ids, counted)


def confidence(log_sure: FloatArray, log_unsure: FloatArray) -> FloatArray:
    """P(<CN>) / (P(<CN>) + P(<UN>)) of log-probabilities, any shape.

    Example:
        >>> round(float(confidence(np.log(0.03), np.log(0.01))), 6)
        0.75
    """
    gap = np.clip(np.asarray(log_unsure) - np.asarray(log_sure), -700.0, 700.0)
    return np.asarray(1.0 / (1.0 + np.exp(gap)), np.float64)


@dataclass(frozen=True)
class ConfidenceHead:
    """Two label logits on a hidden state: <UN> and <CN>.

    Attributes:
        centre, spread: `[D]` of the training states.
        weight: `[D, 2]`.
        bias: `[2]`.
    """

    centre: FloatArray
    spread: FloatArray
    weight: FloatArray
    bias: FloatArray

    @classmethod
    def fit(
        cls,
        states: FloatArray,
        right: FloatArray,
        *,
        epochs: int = 60,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> ConfidenceHead:
        """Train by cross-entropy on the label; stops early on a fifth held out.

        Args:
            states: `[n, D]` after each answer.
            right: `[n]` 1 for right, 0 for wrong.
            epochs, weight_decay: of AdamW.
            seed: of the order of answers.

        Raises:
            PolicyError: shapes differ, NaN, or answers all right or all wrong.
            RouterError: PyTorch is not installed.
        """
        from wye.query.learning.heads import require_torch, train_head

        x, label = np.asarray(states, np.float64), np.asarray(right, np.float64)
        if x.ndim != 2 or label.shape != x.shape[:1] or not np.isfinite(x).all():
            raise PolicyError(
                f"states have shape {x.shape} and right {label.shape}, expected finite [n, D], [n]"
            )
        if not np.isfinite(label).all() or len(np.unique(label >= 0.5)) < 2:
            raise PolicyError("a confidence head learns from known answers, both right and wrong")
        torch = require_torch("confidence-token")
        centre, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        inputs = torch.tensor((x - centre) / spread, dtype=torch.float32)
        target = torch.tensor(label >= 0.5, dtype=torch.int64)

        def loss(head: dict[str, Any], rows: Any, generator: Any) -> Any:
            logits = inputs[rows] @ head["weight"] + head["bias"]
            return torch.nn.functional.cross_entropy(logits, target[rows])

        start = {"weight": np.zeros((x.shape[1], 2)), "bias": np.zeros(2)}
        head = train_head(
            "confidence-token",
            start,
            loss,
            len(x),
            epochs=epochs,
            learning_rate=3e-3,
            weight_decay=weight_decay,
            held_out_share=0.2,
            seed=seed,
        )
        weight, bias = (head[k].astype(np.float64) for k in ("weight", "bias"))
        return cls(centre, spread, weight, bias)

    def score(self, states: FloatArray) -> FloatArray:
        """`[...]` confidence at hidden states `[..., D]`.

        Raises:
            PolicyError: another width.
        """
        x = np.asarray(states, np.float64)
        if x.shape[-1] != self.centre.shape[0]:
            raise PolicyError(
                f"hidden states have width {x.shape[-1]}, expected {self.centre.shape[0]}"
            )
        logits = ((x - self.centre) / self.spread) @ self.weight + self.bias
        return confidence(logits[..., 1], logits[..., 0])

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; `from_dict` reads it."""
        return {k: getattr(self, k).tolist() for k in ("centre", "spread", "weight", "bias")}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ConfidenceHead:
        """What `to_dict` gave."""
        return cls(
            *(np.asarray(value[k], np.float64) for k in ("centre", "spread", "weight", "bias"))
        )


class ConfidenceTokenJudge(Judge):
    """U7: a `ConfidenceHead` as a judge; None where the answer brings no hidden state."""

    name = "confidence-token"

    def __init__(self, head: ConfidenceHead) -> None:
        self.head = head

    def score(self, text: str, answer: Answer) -> float | None:
        """Confidence at `answer.hidden`."""
        return None if answer.hidden is None else float(self.head.score(answer.hidden))
