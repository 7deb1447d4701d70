"""Predictive entropy: how far the law of a model's answers is spread. U3 of arXiv 2603.04445.

After an answer, on the probabilities of all options or of sampled answers; nothing is learned.

    options  score = 1 - H(p) / ln K,  H(p) = -sum_k p_k ln p_k            K options
    samples  score = exp(-H),          H = -1/N sum_i log p(s_i)            N whole answers s_i ~ p

The second is the Monte Carlo estimate of the entropy of the model over answers; its logarithms may
be divided by the length, which keeps long answers comparable (Malinin and Gales, arXiv 2002.07650).
"""

from __future__ import annotations

import numpy as np

from wye.query.base import FloatArray
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError


def option_certainty(probabilities: FloatArray) -> FloatArray:
    """`[...]` 1 - H / ln K of laws over K options `[..., K]`: 1 for a certain one, 0 for chance.

    Raises:
        PolicyError: fewer than two options, or rows that are no probabilities.

    Example:
        >>> option_certainty(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim < 1 or p.shape[-1] < 2 or not (p >= 0).all():
        raise PolicyError(f"probabilities have shape {p.shape}, expected [..., K >= 2], at least 0")
    if not np.allclose(p.sum(axis=-1), 1.0, atol=1e-6):
        raise PolicyError("probabilities of the options of a query must sum to 1")
    logs = np.log(np.where(p > 0, p, 1.0))
    entropy = -(p * logs).sum(axis=-1)
    return np.asarray(np.clip(1.0 - entropy / np.log(p.shape[-1]), 0.0, 1.0), np.float64)


def sampled_certainty(log_probabilities: FloatArray) -> FloatArray:
    """`[...]` exp of the mean log-probability of N sampled answers, `[..., N]`.

    Raises:
        PolicyError: no samples, or values that are no log-probabilities.
    """
    said = np.asarray(log_probabilities, np.float64)
    if said.ndim < 1 or said.shape[-1] < 1 or np.isnan(said).any() or (said > 1e-3).any():
        raise PolicyError(
            f"log_probabilities have shape {said.shape}, expected [..., N >= 1], at most 0"
        )
    return np.asarray(np.exp(np.minimum(said.mean(axis=-1), 0.0)), np.float64)


class PredictiveEntropyJudge(Judge):
    """U3 on sampled answers; None where their log-probabilities are not known."""

    name = "predictive-entropy"

    def score(self, text: str, answer: Answer) -> float | None:
        """exp(-H) of the samples that came with the answer."""
        if not answer.sample_log_probabilities:
            return None
        return float(sampled_certainty(np.array(answer.sample_log_probabilities)))
