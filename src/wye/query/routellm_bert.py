"""RouteLLM's classifier: three classes, strong wins, tie, weak wins.

Routes a query to a model, before an answer exists, on its embedding. Paper: Ong et al., RouteLLM,
arXiv 2406.18665, section 4.2.3.

    P(strong wins), P(tie), P(weak wins) = softmax(W_m e_q + b_m)
    w = 1 - P(tie) - P(weak wins),  strong iff w >= threshold

The authors fine-tune all of BERT-base. Here the encoder stays frozen and only the head learns,
since no model hub is assumed; any embedder is accepted, so a fine-tuned encoder enters as one.
Ours: of M models each other one has its own head against the strong one, which is the best on
average, and 1 - w becomes quality by rising lines (`SufficiencyLine`).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import numpy as np

from wye.query.base import FloatArray
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.sufficiency import LabelEstimator, SufficiencyRouter

STRONG_WINS, TIE, WEAK_WINS = range(3)


class PreferenceClassifier(LabelEstimator):
    """Strong wins, tie or weak wins, a head for each model; see `LabelEstimator`."""

    def _labels(self, quality: FloatArray, strong: int) -> FloatArray:
        return preference_labels(quality, strong)

    def _sufficing(self, probabilities: FloatArray) -> FloatArray:
        return probabilities[:, :, TIE] + probabilities[:, :, WEAK_WINS]


def preference_labels(quality: FloatArray, strong: int) -> FloatArray:
    """`[Q, M, 3]` one-hot: the strong model wins, tie, this model wins; NaN where unknown.

    Example:
        >>> preference_labels(np.array([[0.0, 1.0]]), strong=1)[0, 0].tolist()
        [1.0, 0.0, 0.0]
    """
    gap = quality - quality[:, [strong]]
    labels = np.stack([gap < 0, gap == 0, gap > 0], axis=2).astype(np.float64)
    labels[np.isnan(gap)] = np.nan
    return labels


class RouteLLMBERTRouter(SufficiencyRouter):
    """Three-class classifier on a frozen encoder; of M models each has a head against the strong.

    Args:
        penalty: on the squared weights of the heads, in outcomes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "routellm-bert"

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"classifier": PreferenceClassifier(penalty=self.penalty, seed=self.seed)}
