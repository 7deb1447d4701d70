"""Prices from a stream: what keeps the choice balanced without ever looking at its own batch.

The prices that a batch is routed with come from the batches before it; afterwards it leaves its
values behind (`wye.core.online_prices`). So a token never depends on its batch mates, in training
too, and the memory is a window of N tokens or B counts per expert, whatever the batch.

Source: the online variants of BIP balancing (arXiv 2502.15451).

Shape letters: S tokens, E experts, N window, B bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wye.core import effective_count, fold, histogram_prices, left_values, window_prices
from wye.moe.base import MoEError
from wye.moe.losses import recomputing
from wye.moe.parts.balance import Balance, Routed, checked_shares, keep_float32
from wye.moe.parts.selection import Candidates

Memory = Literal["window", "histogram"]


class OnlinePrices(Balance):
    """Minus the prices that the last N tokens ask for.

    Args:
        n_experts: E.
        k: choices per token.
        memory: "window" keeps the values of N tokens, `[N, E]`; "histogram" counts them, `[E, B]`,
            for affinities in [0, 1].
        window: N.
        bins: B.
        shares: `[E]` how the load is divided; equally by default.

    Raises:
        MoEError: an unknown memory, sizes below 1, shares that are no E numbers >= 0.
    """

    price_E: Tensor
    values_NE: Tensor
    counts_EB: Tensor
    seen: Tensor

    def __init__(
        self,
        n_experts: int,
        k: int,
        *,
        memory: Memory = "histogram",
        window: int = 4096,
        bins: int = 128,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if memory not in ("window", "histogram"):
            raise MoEError(f"memory={memory!r}, expected 'window' or 'histogram'")
        if window < 1 or bins < 1:
            raise MoEError(f"window={window} and bins={bins}, expected at least 1")
        self.k, self.memory, self.window = k, memory, window
        each = checked_shares(shares, n_experts) or (1.0 / n_experts,) * n_experts
        # More than every token an expert cannot take.
        self.share = torch.tensor([min(1.0, k * s) for s in each], dtype=torch.float64)
        self.register_buffer("price_E", torch.zeros(n_experts))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        kept = window if memory == "window" else 0
        self.register_buffer("values_NE", torch.zeros(kept, n_experts))
        counted = bins if memory == "histogram" else 0
        self.register_buffer("counts_EB", torch.zeros(n_experts, counted))
        self._before: Tensor | None = None

    def bias(self, candidates: Candidates) -> Tensor:
        if recomputing() and self._before is not None:
            return -self._before
        return -self.price_E.clone()

    @torch.no_grad()
    def losses(self, routed: Routed) -> dict[str, Tensor]:
        affinity = routed.candidates.affinity
        if recomputing() or affinity.shape[0] == 0:
            return {}
        self._before = self.price_E.clone()
        values = left_values(affinity, self.price_E, self.k).to(self.price_E.dtype)
        seen = int(self.seen) + values.shape[0]
        self.seen.fill_(seen)
        if self.memory == "window":
            kept = torch.cat([self.values_NE, values])[-self.window :]
            self.values_NE.copy_(kept)
            self.price_E.copy_(window_prices(kept[-min(seen, self.window) :], self.share))
        else:
            self.counts_EB.copy_(fold(self.counts_EB, values, window=self.window))
            total = effective_count(seen, self.window)
            self.price_E.copy_(histogram_prices(self.counts_EB, total, self.share))
        return {}

    def _apply(self, fn: Any, recurse: bool = True) -> OnlinePrices:
        apply: Callable[..., nn.Module] = super()._apply
        return keep_float32(self, ("price_E", "values_NE", "counts_EB"), lambda: apply(fn, recurse))

    def extra_repr(self) -> str:
        return f"k={self.k}, memory={self.memory!r}, window={self.window}"
