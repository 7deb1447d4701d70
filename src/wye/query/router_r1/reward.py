"""The reward of Router-R1: format first, then the answer, then the cost.

    R = -1                                       where the format is broken, whatever else
    R = (1 - alpha) R_outcome + alpha R_cost     otherwise

R_outcome is exact match or token F1. R_cost is 1 for cheap and 0 for dear: u = sqrt(C) or
log(1 + C / 100), lo and hi the 5th and 95th percentile of u over the last 1,000 training episodes,

    R_cost = 1 - clip((u - lo) / (hi - lo), 0, 1),   1/2 where hi - lo < 1e-8

C in millionths of a dollar: tokens of replies times USD per million of them. With
`cost_on="correct_only"`, as the authors' code has it, a wrong answer earns no R_cost; with
`"always"`, as in the paper's formula, an episode without any call earns all of it, and the policy
stops calling. Source: Zhang, Feng and You, arXiv 2506.09033.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wye.query.base import RouterError
from wye.query.metrics.answer_match import exact_match, token_f1
from wye.query.router_r1.protocol import violations

if TYPE_CHECKING:
    from wye.query.router_r1.router import Episode

Transform = Literal["sqrt", "log1p"]
BROKEN = -1.0
_FLAT = 1e-8


class CostWindow:
    """R_cost by percentiles of what recent training episodes cost.

    The window is state: `get_state` goes into a checkpoint. `score` only reads it; nothing but
    training calls `observe`.

    Args:
        size: episodes remembered.
        low, high: percentiles, 0 to 100.
        transform: of the cost before percentiles are taken.

    Raises:
        RouterError: a parameter is out of range.

    Example:
        >>> window = CostWindow()
        >>> window.observe([0.0, 100.0])
        >>> window.score(0.0), window.score(100.0)
        (1.0, 0.0)
    """

    def __init__(
        self,
        *,
        size: int = 1000,
        low: float = 5.0,
        high: float = 95.0,
        transform: Transform = "sqrt",
    ) -> None:
        if size < 1 or not 0.0 <= low < high <= 100.0:
            raise RouterError(
                f"size={size}, low={low}, high={high}; expected a size of 1 or more and "
                "percentiles 0 <= low < high <= 100"
            )
        if transform not in ("sqrt", "log1p"):
            raise RouterError(f"transform is {transform!r}, expected sqrt or log1p")
        self.size, self.low, self.high, self.transform = size, low, high, transform
        self._seen: deque[float] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._seen)

    def observe(self, costs: Sequence[float]) -> None:
        """Remember what training episodes cost, each at least 0.

        Raises:
            RouterError: a cost is negative or not a number.
        """
        self._seen.extend([self._transformed(cost) for cost in costs])

    def score(self, cost: float) -> float:
        """R_cost of one episode, 0 to 1; 1/2 while the window is empty or flat.

        Raises:
            RouterError: the cost is negative or not a number.
        """
        u = self._transformed(cost)
        if not self._seen:
            return 0.5
        low, high = np.percentile(np.array(self._seen), [self.low, self.high])
        if high - low < _FLAT:
            return 0.5
        return 1.0 - min(1.0, max(0.0, float((u - low) / (high - low))))

    def get_state(self) -> dict[str, NDArray[Any]]:
        """The window, oldest first."""
        return {"seen": np.array(self._seen, np.float64)}

    def set_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned."""
        self._seen = deque(arrays["seen"].tolist(), maxlen=self.size)

    def _transformed(self, cost: float) -> float:
        if not 0.0 <= cost < math.inf:
            raise RouterError(f"an episode cost {cost}, expected a number of at least 0")
        return math.sqrt(cost) if self.transform == "sqrt" else math.log1p(0.01 * cost)


@dataclass(frozen=True)
class Reward:
    """What one episode earned.

    Attributes:
        total: R.
        outcome: R_outcome, 0 to 1, whether or not the format is broken.
        cost: R_cost, 0 to 1.
        broken: what breaks the format, empty where nothing does.
    """

    total: float
    outcome: float
    cost: float
    broken: tuple[str, ...]


class EpisodeReward:
    """R of an episode from its text, its answer and its cost.

    Args:
        alpha: weight of the cost, 0 (best answers) to 1.
        outcome: how an answer is held against the golds.
        cost_on: which well-formed episodes are paid for being cheap.
        window: percentiles of cost; a fresh one when not given.

    Raises:
        RouterError: a parameter is out of range.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        outcome: Literal["exact", "f1"] = "exact",
        cost_on: Literal["always", "correct_only"] = "correct_only",
        window: CostWindow | None = None,
    ) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise RouterError(f"alpha is {alpha}, expected 0 to 1")
        if outcome not in ("exact", "f1") or cost_on not in ("always", "correct_only"):
            raise RouterError(
                f"outcome={outcome!r}, cost_on={cost_on!r}; expected exact or f1, and always or "
                "correct_only"
            )
        self.alpha, self.outcome, self.cost_on = alpha, outcome, cost_on
        self.window = CostWindow() if window is None else window

    def learn(self, episodes: Sequence[Episode], golds: Sequence[Sequence[str]]) -> list[Reward]:
        """Rewards of training episodes, whose costs the window remembers first."""
        self.window.observe([episode.cost for episode in episodes])
        return [self.judge(e, g) for e, g in zip(episodes, golds, strict=True)]

    def judge(self, episode: Episode, golds: Sequence[str]) -> Reward:
        """The reward of one episode; the window stays as it is."""
        match = exact_match if self.outcome == "exact" else token_f1
        right = 0.0 if episode.answer is None else match(episode.answer, golds)
        broken = violations(episode.response, episode.names, episode.aliases)
        cheap = self.window.score(episode.cost)
        paid = cheap if self.cost_on == "always" or right > 0 else 0.0
        total = BROKEN if broken else (1.0 - self.alpha) * right + self.alpha * paid
        return Reward(total=total, outcome=right, cost=cheap, broken=broken)
