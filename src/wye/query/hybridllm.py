"""HybridLLM: whether the small model will do as well as the large one, under three losses.

Routes a query to a model, before an answer exists, on its embedding. Paper: Ding et al., Hybrid
LLM: Cost-Efficient and Quality-Aware Query Routing, arXiv 2404.14618, section 3.

    H_q = s(q, small) - s(q, large)
    det:   y = 1[H >= 0]
    prob:  y = mean over pairs of sampled answers of 1[s_small >= s_large]
    trans: y = mean over pairs of 1[s_small >= s_large - t*],
           t* = argmax_t>=0 mean_ij |y_i(t) - y_j(t)|  (2 p (1 - p) for 0/1 labels)
    score = sigmoid(w . e_q + b) by cross-entropy to y;  small iff score >= threshold

Ours: the encoder is frozen (any embedder). A log holds one figure for each query and model. Where
it is the mean of answers graded 0 or 1, the mean over all their pairs is exactly
1 - s_large (1 - s_small), and that is `prob`; on a single 0/1 answer it is the label of `det`.
`temperature` takes sigmoid(H / temperature) instead, the approximation of LLMRouter for one sample.
trans has H alone, so its pairs are one. Of M models each other one is the small one in turn, with
its own head and t*; large is the best on average, and the score becomes quality by rising lines
(`SufficiencyLine`).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.sufficiency import LabelEstimator, SufficiencyRouter

LOSSES = ("det", "prob", "trans")


class HybridEstimator(LabelEstimator):
    """Match probability of each model against the large one.

    Args:
        loss: one of `LOSSES`.
        temperature: of `prob` on one sample; None for pairs of 0/1 answers.
        penalty, seed: see `LabelEstimator`.
    """

    def __init__(
        self,
        *,
        loss: str = "trans",
        temperature: float | None = None,
        penalty: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(penalty=penalty, seed=seed)
        self.loss = loss
        self.temperature = temperature

    def _labels(self, quality: FloatArray, strong: int) -> FloatArray:
        gap = quality - quality[:, [strong]]
        if self.loss == "det":
            y = det_labels(gap)
        elif self.loss == "prob":
            y = prob_labels(quality, quality[:, [strong]], self.temperature)
        else:
            y = np.stack([det_labels(g, best_margin(g)) for g in gap.T], axis=1)
        return np.stack([1.0 - y, y], axis=2)

    def _sufficing(self, probabilities: FloatArray) -> FloatArray:
        return probabilities[:, :, 1]


def det_labels(gap: FloatArray, margin: float = 0.0) -> FloatArray:
    """1[gap >= -margin], of any shape, NaN where the gap is."""
    return np.where(np.isnan(gap), np.nan, (gap >= -margin).astype(np.float64))


def prob_labels(
    small: FloatArray, large: FloatArray, temperature: float | None = None
) -> FloatArray:
    """Probability that an answer of the small model is as good as one of the large, of any shape.

    Args:
        small, large: quality 0 to 1; without a temperature the mean of answers graded 0 or 1.
        temperature: where given, sigmoid((small - large) / temperature).

    Example:
        >>> prob_labels(np.array([0.5]), np.array([1.0])).tolist()
        [0.5]
    """
    if temperature is None:
        return np.asarray(1.0 - large * (1.0 - small), np.float64)
    z = np.clip((small - large) / temperature, -30.0, 30.0)
    return np.asarray(1.0 / (1.0 + np.exp(-z)), np.float64)


def best_margin(gap: FloatArray) -> float:
    """t* >= 0 that spreads the labels 1[gap >= -t] of `[Q]` gaps (NaN: unknown) most.

    Of 0/1 labels with mean p the spread, mean_ij |y_i - y_j|, is 2 p (1 - p). Only the gaps
    themselves can change a label, so they are the candidates, and 0; the smallest of equals wins.

    Example:
        >>> best_margin(np.array([-0.4, -0.3, -0.2, -0.1]))
        0.2
    """
    known = np.sort(gap[np.isfinite(gap)])
    candidates = np.unique(np.concatenate([[0.0], -known[known < 0]]))
    share = 1.0 - np.searchsorted(known, -candidates, side="left") / max(1, known.size)
    spread = share * (1.0 - share)
    return float(candidates[int(np.argmax(spread > spread.max() - 1e-12))])


@dataclass(kw_only=True, eq=False, repr=False)
class HybridLLMRouter(SufficiencyRouter):
    """Small or large by the chance that the small one matches; of M models each has a head.

    Args:
        loss: `det`, `prob` or `trans`.
        temperature: of `prob` where quality is one graded answer; None for means of 0/1 answers.
        penalty: on the squared weights of the heads, in outcomes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "hybridllm"

    loss: str = "trans"
    temperature: float | None = None
    penalty: float = 1.0
    calibration: str = "none"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.loss not in LOSSES:
            raise RouterError(f"loss is {self.loss!r}, expected one of {list(LOSSES)}")
        if self.temperature is not None and not self.temperature > 0:
            raise RouterError(f"temperature is {self.temperature}, expected None or above 0")

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {
            "match": HybridEstimator(
                loss=self.loss,
                temperature=self.temperature,
                penalty=self.penalty,
                seed=self.seed,
            )
        }
