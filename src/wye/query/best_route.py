"""BEST-Route: the cheapest of the targets that match the large model, best-of-n ones among them.

Routes a query to a model and a number of answers to draw, before an answer exists, on its
embedding. Paper: Ding et al., BEST-Route: Adaptive LLM Routing with Test-Time Optimal Compute,
arXiv 2506.22716.

    targets: (small model, best of n) for n = 1..N, and the large model
    P_j(q) = softmax head j on e_q, target 1[s(q, j) >= s(q, large) - t], t = 0
    the cheapest target j with P_j(q) >= threshold, else large

A best-of-n target draws n answers and a proxy reward model picks one (`pick_best`); any callable is
a proxy. In a log it is a target like any other, with its own outcomes and the cost of all its
answers: `with_best_of` adds it to a log from sampled answers. Ours: the encoder is frozen; large is
the best on average in training; the rule is the policy `match`, which `policy(threshold)` returns,
and the probability becomes quality by rising lines (`SufficiencyLine`), so that any other policy
works as well.

Shape letters: Q queries, M models, N answers of a model to a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.hybridllm import HybridEstimator
from wye.query.learning.estimator import QualityEstimator
from wye.query.learning.sufficiency import SufficiencyRouter

if TYPE_CHECKING:
    from wye.data import RoutingData

# What an answer to a query is worth, as far as a small model can tell.
ProxyReward = Callable[[str, str], float]


class BestRouteRouter(SufficiencyRouter):
    """One match head for each target against the large model.

    Args:
        penalty: on the squared weights of the heads, in outcomes.
        embedder, calibration, max_references, seed: see `EmbeddedRouter`.
    """

    name = "best-route"

    def _estimators(self) -> dict[str, QualityEstimator]:
        return {"match": HybridEstimator(loss="det", penalty=self.penalty, seed=self.seed)}


def pick_best(query: str, answers: Sequence[str], proxy: ProxyReward) -> int:
    """Index of the answer with the highest proxy reward, the first of equals.

    Raises:
        RouterError: no answers, or a reward that is not a number.

    Example:
        >>> pick_best("2 + 2", ["four", "It is 4."], lambda query, answer: len(answer))
        1
    """
    if not answers:
        raise RouterError("there is no answer to pick from; draw at least one")
    rewards = np.array([float(proxy(query, answer)) for answer in answers])
    if np.isnan(rewards).any():
        raise RouterError(
            f"the proxy reward of answer {int(np.isnan(rewards).argmax())} is not a number"
        )
    return int(rewards.argmax())


@dataclass(frozen=True)
class SampledAnswers:
    """Several answers of one model to the Q queries of a log.

    Attributes:
        model: its name in the log.
        quality: `[Q, N]` of each answer, NaN where none was drawn.
        reward: `[Q, N]` what the proxy reward model gave it.
        cost: `[Q, N]` USD, NaN where unknown.
    """

    model: str
    quality: FloatArray
    reward: FloatArray
    cost: FloatArray

    def best_of(self, n: int) -> tuple[FloatArray, FloatArray]:
        """`[Q]` quality of the answer that the proxy picks of the first n, and cost of all n.

        NaN where one of them was not drawn.
        """
        quality, reward = self.quality[:, :n], self.reward[:, :n]
        drawn = np.isfinite(quality).all(axis=1) & np.isfinite(reward).all(axis=1)
        picked = np.where(np.isfinite(reward), reward, -np.inf).argmax(axis=1)
        chosen = quality[np.arange(len(quality)), picked]
        return np.where(drawn, chosen, np.nan), self.cost[:, :n].sum(axis=1)


def best_of_name(model: str, n: int) -> str:
    """What the target "best of n answers of `model`" is called."""
    return f"{model}@{n}"


def with_best_of(data: RoutingData, samples: SampledAnswers, ns: Sequence[int]) -> RoutingData:
    """`data` with a target for the best of n answers of a model, for each n of `ns`.

    Args:
        data: a log of Q queries that has the model.
        samples: its answers, rows as `data.queries`.
        ns: numbers of answers, 1 to N; prices and size are the model's.

    Raises:
        RouterError: the model is not in the log, shapes differ, or an n is out of range.
    """
    import pandas as pd

    from wye.data import RoutingData

    shape = samples.quality.shape
    if samples.model not in data.model_names:
        raise RouterError(f"no model {samples.model!r} in {list(data.model_names)}")
    if len(shape) != 2 or shape[0] != len(data):
        raise RouterError(f"quality has shape {shape}, expected [Q, N] with Q = {len(data)}")
    for field in ("reward", "cost"):
        if getattr(samples, field).shape != shape:
            raise RouterError(
                f"{field} has shape {getattr(samples, field).shape}, expected {shape} as quality"
            )
    if not ns or min(ns) < 1 or max(ns) > shape[1]:
        raise RouterError(f"ns is {list(ns)}, expected numbers from 1 to {shape[1]}")
    outcomes, models = [data.outcomes], [data.models]
    row = data.models[data.models["model"] == samples.model]
    for n in ns:
        quality, cost = samples.best_of(n)
        drawn = np.isfinite(quality)
        outcomes.append(
            pd.DataFrame(
                {
                    "query_id": data.queries["query_id"].to_numpy()[drawn],
                    "model": best_of_name(samples.model, n),
                    "quality": quality[drawn],
                    "cost_usd": cost[drawn],
                    "input_tokens": pd.array([pd.NA] * int(drawn.sum()), dtype="Int64"),
                    "output_tokens": pd.array([pd.NA] * int(drawn.sum()), dtype="Int64"),
                    "latency_s": np.nan,
                }
            )
        )
        models.append(row.assign(model=best_of_name(samples.model, n)))
    return RoutingData(
        queries=data.queries,
        outcomes=pd.concat(outcomes, ignore_index=True),
        models=pd.concat(models, ignore_index=True),
        name=data.name,
    )
