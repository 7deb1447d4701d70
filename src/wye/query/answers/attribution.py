"""What each model of an ensemble is worth to its vote: exact leave-one-out, and its cheap proxies.

    value_i = score(vote with all) - score(vote without i)

The votes are taken again on recorded answers, ties included; no model is called. The proxies need
no score of any answer, which is their appeal; ACAR (arXiv 2602.21231) found that they say little of
the true value, so `proxy_correlations` stands beside them.

Shape letters: Q queries, K models in order of priority.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wye.query.answers.voting import IntArray, same_answer, vote
from wye.query.base import FloatArray, RouterError


def leave_one_out(numbers: IntArray, score: FloatArray) -> FloatArray:
    """`[Q, K]` how much the vote's score falls when a model is left out; 0 where nothing changes.

    Args:
        numbers: `[Q, K]` answers by number, negative for none, K at least 2.
        score: `[Q, K]` score of each model's own answer.

    Raises:
        RouterError: shapes differ, a single model, or scores that are not finite.

    Example:
        >>> leave_one_out(np.array([[0, 1, 1]]), np.array([[0.0, 1.0, 1.0]])).tolist()
        [[0.0, 1.0, 1.0]]
    """
    if numbers.shape != score.shape or numbers.ndim != 2 or numbers.shape[1] < 2:
        raise RouterError(
            f"answers have shape {numbers.shape} and scores {score.shape}, expected both [Q, K] "
            "with K at least 2"
        )
    if not np.isfinite(score).all():
        raise RouterError("scores must be finite: leave out queries whose answers are not graded")
    rows = np.arange(len(numbers))
    whole = score[rows, vote(numbers).winner]
    value = np.empty(score.shape)
    for model in range(numbers.shape[1]):
        others = np.delete(np.arange(numbers.shape[1]), model)
        winner = others[vote(numbers[:, others]).winner]
        value[:, model] = whole - score[rows, winner]
    return value


@dataclass(frozen=True)
class Proxies:
    """Stand-ins for a model's value that need no score.

    Attributes:
        similarity: `[Q, K]` share of the other models that gave the same answer.
        entropy: `[Q, K]` nats by which the entropy of the answers grows when the model is left out.
    """

    similarity: FloatArray
    entropy: FloatArray


def attribution_proxies(numbers: IntArray) -> Proxies:
    """Both proxies from answers alone.

    Args:
        numbers: `[Q, K]`, K at least 2.
    """
    if numbers.ndim != 2 or numbers.shape[1] < 2:
        raise RouterError(f"answers have shape {numbers.shape}, expected [Q, K] with K at least 2")
    n_models = numbers.shape[1]
    similarity = (same_answer(numbers).sum(axis=2) - 1) / (n_models - 1)
    whole = _entropy(numbers)
    entropy = np.empty(numbers.shape)
    for model in range(n_models):
        entropy[:, model] = _entropy(np.delete(numbers, model, axis=1)) - whole
    return Proxies(np.asarray(similarity, np.float64), entropy)


def proxy_correlations(value: FloatArray, proxies: Proxies) -> dict[str, float]:
    """Spearman correlation of each proxy with the exact values; NaN where one does not vary."""
    from scipy.stats import spearmanr

    found = {}
    for name in ("similarity", "entropy"):
        proxy = getattr(proxies, name)
        varies = np.ptp(value) > 0 and np.ptp(proxy) > 0
        found[name] = (
            float(spearmanr(value.ravel(), proxy.ravel()).statistic) if varies else float("nan")
        )
    return found


def _entropy(numbers: IntArray) -> FloatArray:
    share = same_answer(numbers).mean(axis=2)
    return np.asarray(-np.log(share).mean(axis=1), np.float64)
