"""PickLLM: reinforcement learning without a state picks the model that pays best on the whole.

Routes all queries of a stream alike, before an answer exists, on the outcomes of earlier choices.
Paper: arXiv 2412.12170.

    r = w1 quality - w2 cost - w3 latency
    q-learning: epsilon-greedy on Q_m <- Q_m + rate (r - Q_m)
    gradient:   a learning automaton that draws from softmax(h), h moved along the gradient of r

Ours, following the published description and not its code: quality where the paper scores answers
against a reference; w2 is in score per USD and w3 in score per second; softmax preferences with the
mean reward as baseline for the automaton.

Shape letters: Q queries, M models, D context width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.core.bandits import Bandit, GradientBandit, ValueLearning
from wye.query.base import FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, NoContext, Task
from wye.query.online.base import OnlineRouter
from wye.query.online.feedback import Observed

if TYPE_CHECKING:
    from wye.embed import Embedder

ALGORITHMS = ("q-learning", "gradient")


@dataclass(kw_only=True, eq=False, repr=False)
class PickLLMRouter(OnlineRouter):
    """Stateless Q-learning or a gradient learning automaton over models; see the module.

    Args:
        algorithm: `q-learning` or `gradient`.
        quality_weight, cost_weight, latency_weight: w1, w2 (per USD), w3 (per second), >= 0. A
            figure whose weight is 0 need not be known.
        rate: of learning.
        epsilon, decay, floor: of Q-learning's random picks.
        arms, embedder, max_references, max_open, seed: see `OnlineRouter`; the embedder tells how
            new a query is and chooses nothing.
    """

    name = "pickllm"

    algorithm: str = "q-learning"
    quality_weight: float = 1.0
    cost_weight: float = 0.0
    latency_weight: float = 0.0
    rate: float = 0.05
    epsilon: float = 1.0
    decay: float = 0.98
    floor: float = 0.01

    def _make_reader(self, embedder: Embedder) -> ContextReader:
        del embedder
        if self.algorithm not in ALGORITHMS:
            raise RouterError(
                f"algorithm is {self.algorithm!r}, expected one of {list(ALGORITHMS)}"
            )
        for name in ("quality_weight", "cost_weight", "latency_weight"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise RouterError(f"{name} is {getattr(self, name)}, expected a number >= 0")
        return NoContext()

    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        del width
        if self.algorithm == "gradient":
            return GradientBandit(n_arms, rate=self.rate)
        return ValueLearning(
            n_arms, rate=self.rate, epsilon=self.epsilon, decay=self.decay, floor=self.floor
        )

    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """r = w1 quality - w2 cost - w3 latency, `[Q, N]`."""
        del tasks
        reward = self.quality_weight * observed.quality
        if self.cost_weight:
            reward = reward - self.cost_weight * observed.cost
        if self.latency_weight:
            reward = reward - self.latency_weight * observed.latency
        return reward

    def _warm(self, contexts: FloatArray, rewards: FloatArray) -> None:
        """Go through the log query by query: the order of rewards matters to what forgets."""
        order = np.random.default_rng(self.seed).permutation(len(rewards))
        for row in order.tolist():
            known = np.flatnonzero(np.isfinite(rewards[row]))
            if not known.size:
                continue
            if self.algorithm == "gradient":
                # The gradient is that of arms drawn from its own probabilities.
                mask = np.isfinite(rewards[row])
                known = np.array([self.bandit_.pick(contexts[row], self.generator_, mask).arm])
            for arm in known.tolist():
                self.bandit_.learn(arm, contexts[row : row + 1], rewards[row, arm : arm + 1])
        self.bandit_.skip(len(rewards))
