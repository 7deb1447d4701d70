"""MixLLM: a quality and a cost head per model, a bonus for the little known, a penalty for waiting.

Routes a query to a model, before an answer exists, on its embedding, on how long each model keeps
one waiting, and on yes-or-no feedback to earlier choices. Paper: arXiv 2502.18482.

    s_m(x) = w q_m(x) - (1 - w) c_m(x) / max_j c_j(x) + alpha sqrt(x' A_m^-1 x)
             - beta exp(gamma (wait_m - tau))

q_m and c_m are ridge regressions on the context of the feedback and of the cost, learned online;
A_m is that of the quality head. Feedback is binary: an answer of quality >= `satisfied` counts as 1
and any other as 0. Ours, following the published description and not its code: the ridge heads, the
cost relative to the dearest model on the query, the expected latency as the wait where the caller
gives none, a bound on the exponent so that a stalled model cannot overflow, and the parameters.

Shape letters: Q queries, M models, D context width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.core.bandits import Bandit, LinUCB
from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, EmbeddingContext, Task
from wye.query.online.base import OnlineRouter
from wye.query.online.feedback import Observed

if TYPE_CHECKING:
    from wye.embed import Embedder

# e^30 outweighs any quality; beyond it floats overflow in the end.
_MOST_LATE = 30.0


@dataclass(kw_only=True, eq=False, repr=False)
class MixLLMRouter(OnlineRouter):
    """Quality and cost heads with a LinUCB bonus and a latency penalty; see the module.

    Args:
        quality_weight: w, from 0 (cheapest) to 1 (quality alone).
        alpha: weight of the bonus.
        reg: weight of the prior of the quality head.
        satisfied: quality from which an answer counts as good, in (0, 1].
        latency_weight: beta; 0 leaves waiting out.
        latency_slope: gamma, per second.
        latency_limit: tau, seconds.
        width: dimensions of the embedding that are kept.
        arms, embedder, max_references, max_open, seed: see `OnlineRouter`.

    Attributes:
        waits_: seconds until each model could answer, by name, told by `set_waits`.
    """

    name = "mixllm"

    quality_weight: float = 0.8
    alpha: float = 0.5
    reg: float = 1.0
    satisfied: float = 0.5
    latency_weight: float = 0.0
    latency_slope: float = 0.1
    latency_limit: float = 10.0
    width: int = 64

    def set_waits(self, seconds: Mapping[str, float]) -> None:
        """Tell how long each model would keep a query waiting at this moment.

        Raises:
            RouterError: an unknown model, or a wait that is negative or not finite.
        """
        self._check_started()
        for name, wait in seconds.items():
            self._column(name)
            if not (np.isfinite(wait) and wait >= 0):
                raise RouterError(f"the wait of {name!r} is {wait}, expected seconds >= 0")
        self.waits_.update(seconds)

    def _make_reader(self, embedder: Embedder) -> ContextReader:
        for name, low, high in (
            ("quality_weight", 0.0, 1.0),
            ("satisfied", 1e-9, 1.0),
            ("latency_weight", 0.0, np.inf),
            ("latency_slope", 0.0, np.inf),
        ):
            value = getattr(self, name)
            if not (np.isfinite(value) and low <= value <= high):
                raise RouterError(f"{name} is {value}, expected a number from {low:g} to {high:g}")
        self.waits_: dict[str, float] = {}
        return EmbeddingContext(embedder.dim, self.width, self.seed)

    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        return LinUCB(n_arms, width, alpha=self.alpha, reg=self.reg)

    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """Binary feedback `[Q, N]`: 1 where the quality satisfies."""
        del tasks
        unknown = np.isnan(observed.quality)
        return np.where(unknown, np.nan, (observed.quality >= self.satisfied).astype(np.float64))

    def _pick(
        self, context: FloatArray, mask: BoolArray
    ) -> tuple[tuple[int, ...], float, FloatArray]:
        assert isinstance(self.bandit_, LinUCB)
        x = context[None]
        quality = self.bandit_.ridge.mean(x)[0]
        bonus = self.alpha * self.bandit_.ridge.spread(x)[0]
        # A model whose cost was never seen is tried as if it cost nothing.
        cost = np.nan_to_num(self.heads_["cost"].value(x)[0])
        dearest = float(cost[mask].max())
        relative = cost / dearest if dearest > 0 else np.zeros_like(cost)
        score = self.quality_weight * quality - (1.0 - self.quality_weight) * relative + bonus
        score = np.where(mask, score - self._penalty(x), -np.inf)
        return (int(score.argmax()),), 1.0, score

    def _penalty(self, x: FloatArray) -> FloatArray | float:
        if not self.latency_weight:
            return 0.0
        expected = np.nan_to_num(self.heads_["latency"].value(x)[0])
        wait = np.array(
            [self.waits_.get(m, e) for m, e in zip(self.models_, expected, strict=True)]
        )
        late = self.latency_slope * (wait - self.latency_limit)
        return self.latency_weight * np.exp(np.minimum(late, _MOST_LATE))
