"""BIP balancing: top-k at prices that balance this very batch, from the first step on.

Token -> its k experts of largest score less price, when the batch passes the layer; in training the
prices come from the scores of all tokens of the batch, in evaluation they are frozen.
Paper: Sun 2025, arXiv 2502.15451.

    s = softmax(x W_r^T)
    maximise sum s x  subject to  sum_i x_ti = k,  sum_t x_ti <= c = ceil(k n / E),  x in {0, 1}
    repeat T times:  p_t = (k+1)-th largest of s_t - q,  q_i = max(0, (c+1)-th largest of s_.i - p)
    S_t = the k largest of s_t - q,  g_i = s_i / sum_S s     the original scores, no gradient to q
No loss.

`wye.core.dual_prices` takes the middle between the c-th and the (c+1)-th, which is also a minimiser
of the dual and leaves no marginal token without preference; it leaves p free. `solver="window"` and
"histogram" are the paper's online variants: prices of the last 4096 tokens, so that training is
causal as well.

The paper does not state c where E does not divide k n, the inference rule, or the bins of the
histogram. Ours: rounded up; the running mean of the prices of training (0.99); 128 bins.

Very peaked scores force meaningless choices under equal load: where what is chosen holds less than
0.7 of the score of the plain top k, a warning says so (looked at every 100 training passes).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from wye.core import retained_score
from wye.moe.base import MoEError
from wye.moe.build import Shape, routed_stack
from wye.moe.losses import recomputing
from wye.moe.parts.balance import Balance, DualPrices, Routed
from wye.moe.parts.gates import Gate
from wye.moe.parts.online_prices import OnlinePrices
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter

Solver = Literal["batch", "window", "histogram"]


class RetainedScore(Balance):
    """Watches what balance costs: chosen score over that of the plain top k.

    Args:
        every: training passes between two looks; 1 looks at each.
        below: warns under this share.

    Attributes:
        last: the share at the last look; NaN before the first.
    """

    def __init__(self, *, every: int = 100, below: float = 0.7) -> None:
        super().__init__()
        if every < 1:
            raise MoEError(f"every={every}, expected at least 1")
        self.every, self.below = every, below
        self.last = float("nan")
        self._passes = 0

    def losses(self, routed: Routed) -> dict[str, Tensor]:
        if recomputing():
            return {}
        if self._passes % self.every == 0 and routed.plan.n_sources:
            self.last = retained_score(routed.plan, routed.candidates.affinity.detach())
            if self.last < self.below:
                warnings.warn(
                    f"equal load keeps {self.last:.2f} of the score that the best experts would "
                    f"have, below {self.below}: the scores are too peaked for it; raise the gate's "
                    "temperature, or give shares that follow the demand",
                    stacklevel=2,
                )
        self._passes += 1
        return {}

    def extra_repr(self) -> str:
        return f"every={self.every}, below={self.below}"


def router(
    width: int,
    n_experts: int,
    *,
    k: int = 2,
    rounds: int = 4,
    warm_start: bool = True,
    evaluation: Literal["mean", "zero"] = "mean",
    solver: Solver = "batch",
    window: int = 4096,
    shares: Sequence[float] | None = None,
    tie_break: float = 0.0,
) -> ComposedRouter:
    """Softmax scores, top k at dual prices.

    Args:
        width: D.
        n_experts: E.
        k: experts per token.
        rounds: T.
        warm_start: start from the prices of the last batch.
        evaluation: prices of evaluation: the mean of those of training, or zero.
        solver: "batch"; "window" or "histogram" for the online variants, to which rounds, warm
            start, evaluation and tie-breaking mean nothing.
        window: N of the online variants.
        shares: `[E]` how the load is divided; equally by default.
        tie_break: parts tokens with identical scores; 1e-6 is enough.

    Raises:
        MoEError: an unknown solver, or what the parts refuse.
    """
    if solver not in ("batch", "window", "histogram"):
        raise MoEError(f"solver={solver!r}, expected 'batch', 'window' or 'histogram'")
    prices: Balance
    if solver == "batch":
        prices = DualPrices(
            n_experts,
            k,
            rounds=rounds,
            warm_start=warm_start,
            evaluation=evaluation,
            shares=shares,
            tie_break=tie_break,
        )
    else:
        prices = OnlinePrices(n_experts, k, memory=solver, window=window, shares=shares)
    return ComposedRouter(
        width,
        LinearScores(width, n_experts),
        gate=Gate(normalise=k > 1),
        selection=TopK(k),
        balance=[prices, RetainedScore()],
    )


def build(
    shape: Shape,
    *,
    rounds: int = 4,
    warm_start: bool = True,
    evaluation: Literal["mean", "zero"] = "mean",
    solver: Solver = "batch",
    window: int = 4096,
    shares: Sequence[float] | None = None,
    tie_break: float = 0.0,
    gated: bool = True,
) -> list[nn.Module]:
    """One BIP layer per layer of `shape`."""
    return routed_stack(
        shape,
        lambda _: router(
            shape.width,
            shape.n_experts,
            k=shape.k,
            rounds=rounds,
            warm_start=warm_start,
            evaluation=evaluation,
            solver=solver,
            window=window,
            shares=shares,
            tie_break=tie_break,
        ),
        gated=gated,
    )
