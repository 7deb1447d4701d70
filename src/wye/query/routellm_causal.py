"""RouteLLM's causal model: five labels that say how well the weak model would answer.

Routes a query to a model, before an answer exists, on its text. Paper: Ong et al., RouteLLM, arXiv
2406.18665, section 4.2.4.

    p_1..p_5 = softmax over the labels 1..5 = predicted quality of the weak model's answer
    w = 1 - sum_(l >= 4) p_l,  strong iff w >= threshold;  invalid output -> strong (w = 1)

The authors fine-tune an 8B model to emit a label. Here are two forms. Trained (`chat_model=None`):
a five-label head on the frozen vectors of `embedder`, one for each model but the strong, on labels
1 + round(4 quality). Untrained: a `ChatModel` is asked for the log-probability of each digit, once
for a text. It is not told which model would answer, so the models differ by their average alone.
Ours: strong is the best on average, and 1 - w becomes quality by rising lines (`SufficiencyLine`).

Shape letters: Q queries, M models, L = 5 labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.chat_models.base import ChatModel, ChatModelError, Message
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.inputs import QueryInputs
from wye.query.learning.sufficiency import (
    LabelEstimator,
    SufficiencyEstimator,
    SufficiencyRouter,
)

LABELS = ("1", "2", "3", "4", "5")
# Labels from here on say that the weak model's answer will do.
GOOD = 3
MOST_CHARACTERS = 4000
MOST_REMEMBERED = 100_000
QUESTION = (
    "How good would the answer of a small language model to the request below be? Reply with one "
    "digit. 5: right and complete. 4: right, with small gaps. 3: partly right. 2: mostly wrong. "
    "1: wrong or useless.\n\nRequest:\n{query}"
)


class LabelHeads(LabelEstimator):
    """Five labels for each model by heads on frozen vectors; see `LabelEstimator`."""

    def _labels(self, quality: FloatArray, strong: int) -> FloatArray:
        return quality_labels(quality)

    def _sufficing(self, probabilities: FloatArray) -> FloatArray:
        return np.asarray(probabilities[:, :, GOOD:].sum(axis=2), np.float64)


class PromptedLabels(SufficiencyEstimator):
    """Five labels by asking a chat model, which is not told what model would answer.

    Args:
        chat_model: scores the labels.
        asked: what it said of a text before, filled here; one for all estimators of a router.
    """

    def __init__(self, chat_model: ChatModel, asked: dict[str, float], *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.chat_model = chat_model
        self.asked = asked

    def _learn(self, inputs: QueryInputs, quality: FloatArray, strong: int) -> None:
        self.n_models_ = quality.shape[1]

    def sufficiency(self, inputs: QueryInputs) -> FloatArray:
        """`[Q, M]` probability that each model suffices, the same for all."""
        will_do = np.array([self._weak_will_do(text) for text in inputs.texts])
        return np.tile(will_do[:, None], (1, self.line_size))

    @property
    def line_size(self) -> int:
        """M."""
        return self.line_.level.size if hasattr(self, "line_") else self.n_models_

    def _weak_will_do(self, text: str) -> float:
        key = text[:MOST_CHARACTERS]
        if key not in self.asked:
            if len(self.asked) >= MOST_REMEMBERED:
                self.asked.clear()
            self.asked[key] = 1.0 - prompted_strong_score(self.chat_model, key)
        return self.asked[key]


def quality_labels(quality: FloatArray) -> FloatArray:
    """`[Q, M, 5]` one-hot of the label 1 + round(4 quality); NaN where unknown.

    Example:
        >>> quality_labels(np.array([[0.0, 0.5, 1.0]])).argmax(axis=2).tolist()
        [[0, 2, 4]]
    """
    known = np.isfinite(quality)
    label = np.rint(4.0 * np.where(known, quality, 0.0)).astype(np.intp)
    one_hot = np.eye(len(LABELS))[label]
    one_hot[~known] = np.nan
    return one_hot


def strong_score(log_probabilities: FloatArray) -> float:
    """w = 1 - P(label >= 4) of the five labels; 1 where they are no distribution.

    Example:
        >>> strong_score(np.log([0.1, 0.1, 0.2, 0.3, 0.3])).__round__(6)
        0.4
        >>> strong_score(np.full(5, np.nan))
        1.0
    """
    if log_probabilities.shape != (len(LABELS),) or np.isnan(log_probabilities).any():
        return 1.0
    top = float(log_probabilities.max())
    if not np.isfinite(top):
        return 1.0
    share = np.exp(log_probabilities - top)
    return float(1.0 - share[GOOD:].sum() / share.sum())


def prompted_strong_score(chat_model: ChatModel, text: str) -> float:
    """w of a text by asking; 1 (strong) where the chat model cannot say."""
    messages: Sequence[Message] = [{"role": "user", "content": QUESTION.format(query=text)}]
    try:
        found = chat_model.label_log_probabilities(messages, LABELS)
    except ChatModelError:
        return 1.0
    return strong_score(found)


@dataclass(kw_only=True, eq=False, repr=False)
class RouteLLMCausalRouter(SufficiencyRouter):
    """Five labels of the weak model's answer, by heads or by asking a chat model.

    Args:
        chat_model: asked for each text, training ones included; None for trained heads. A router
            with one cannot be saved, since a chat model is no value.
        penalty: on the squared weights of the heads, in outcomes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "routellm-causal"

    chat_model: ChatModel | None = None
    penalty: float = 1.0
    calibration: str = "none"

    def __post_init__(self) -> None:
        self._asked: dict[str, float] = {}

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.chat_model is not None and not isinstance(self.chat_model, ChatModel):
            raise RouterError(f"chat_model is {self.chat_model!r}, expected a ChatModel or None")

    def _estimators(self) -> dict[str, QualityEstimator]:
        if self.chat_model is None:
            return {"labels": LabelHeads(penalty=self.penalty, seed=self.seed)}
        return {"labels": PromptedLabels(self.chat_model, self._asked, seed=self.seed)}
