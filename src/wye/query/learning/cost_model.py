"""Expected cost and latency of an answer, from what answers to known queries took.

A model's cost on a query is regressed in logarithms on the embedding and text features, with a
factor that keeps the mean in dollars right (Duan's smearing estimate, JASA 78, 1983). Where a
model's cost was never seen but its prices are known, tokens times prices stand in; where neither is
known, the cost is NaN.

Prices that change later need no new answers: of a cost learned at the prices p, the part of the
prompt is min(cost, tokens in x p_in), the rest is output, and each part moves with its own price.

Shape letters: Q queries, M models, D columns of the design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray
from wye.query.learning.named_arrays import prefixed, under
from wye.query.learning.ridge import Design, fit_ridge

if TYPE_CHECKING:
    from wye.data import RoutingData

LEAST_OUTCOMES = 50
TOKENS_PER_CHAR = 0.25
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 1e4)


@dataclass(frozen=True)
class AmountModel:
    """A positive amount (dollars or seconds) of each model as a function of the query.

    Attributes:
        coef: `[D, M]` and intercept `[M]`: logarithm of the amount.
        smear: `[M]` factor that makes the mean right; NaN for a model never measured.
        low, high: `[M]` smallest and largest logarithm seen; predictions stay between.
    """

    coef: NDArray[np.float32]
    intercept: FloatArray
    smear: FloatArray
    low: FloatArray
    high: FloatArray

    def predict(self, design: NDArray[np.float32]) -> FloatArray:
        """Expected amount `[Q, M]`; NaN for a model never measured."""
        logs = (design @ self.coef).astype(np.float64) + self.intercept
        # The same as np.clip, which costs several times as much on a single query.
        limited = np.minimum(np.maximum(logs, self.low), self.high)
        return np.asarray(np.exp(limited) * self.smear, np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The model as arrays, to be stored."""
        return {n: getattr(self, n) for n in ("coef", "intercept", "smear", "low", "high")}

    def with_constant(self, amount: float) -> AmountModel:
        """The same with one more model of constant `amount` (NaN for unknown)."""
        log = np.log(max(amount, 1e-12)) if np.isfinite(amount) else 0.0
        return AmountModel(
            coef=np.concatenate([self.coef, np.zeros_like(self.coef[:, :1])], axis=1),
            intercept=np.append(self.intercept, log),
            smear=np.append(self.smear, 1.0 if np.isfinite(amount) else np.nan),
            low=np.append(self.low, log),
            high=np.append(self.high, log),
        )

    def without(self, column: int) -> AmountModel:
        """The same without one model."""
        return AmountModel(
            **{name: np.delete(array, column, axis=-1) for name, array in self.arrays().items()}
        )


def fit_amounts(design: NDArray[np.float32], amounts: FloatArray) -> AmountModel:
    """Learn from amounts `[Q, M]`, NaN where unknown. A few outcomes of a model give its mean."""
    logs = np.log(np.maximum(np.where(amounts >= 0, amounts, np.nan), 1e-12))
    known = np.isfinite(logs)
    counts = known.sum(axis=0)
    rich = counts >= LEAST_OUTCOMES
    n_models = amounts.shape[1]
    coef = np.zeros((design.shape[1], n_models), np.float32)
    intercept = _column(np.nanmean, logs, counts > 0, 0.0)
    if rich.any():
        ridge = fit_ridge(Design(design), logs[:, rich], PENALTIES)
        coef[:, rich], intercept[rich] = ridge.coef, ridge.intercept
    low = _column(np.nanmin, logs, counts > 0, 0.0)
    high = _column(np.nanmax, logs, counts > 0, 0.0)
    plain = AmountModel(coef, intercept, np.ones(n_models), low, high).predict(design)
    total = np.where(known, np.exp(np.where(known, logs, 0.0)), 0.0).sum(axis=0)
    predicted = np.where(known, plain, 0.0).sum(axis=0)
    smear = np.where(counts > 0, total / np.where(predicted > 0, predicted, 1.0), np.nan)
    return AmountModel(coef, intercept, smear, low, high)


@dataclass(frozen=True)
class CostModel:
    """Cost in USD and latency in seconds of every model on a query.

    Attributes:
        cost, latency: regressions on the query.
        fallback: `[3, M]` for a model whose cost was never seen: price of an input and of an output
            token (USD), and expected output tokens; NaN prices where not known.
        tokens_per_char: of the input.
        repriced: `[2, M]` price of an input and of an output token (USD) that holds since the costs
            were learned; NaN where the prices of `fallback` still do.
    """

    cost: AmountModel
    latency: AmountModel
    fallback: FloatArray
    tokens_per_char: float
    repriced: FloatArray

    def predict(
        self, texts: Sequence[str], design: NDArray[np.float32]
    ) -> tuple[FloatArray, FloatArray]:
        """Expected cost and latency, each `[Q, M]`, NaN where nothing is known."""
        n_models = self.cost.smear.size
        both = self._both.predict(design)
        cost, latency = both[:, :n_models], both[:, n_models:]
        unseen, changed = self._unseen, self._changed
        if unseen.size or changed.size:
            tokens = np.array([len(t) for t in texts], np.float64) * self.tokens_per_char
            price_in, price_out, out = self.fallback[:, unseen]
            cost[:, unseen] = tokens[:, None] * price_in + price_out * out
            cost[:, changed] = self._repriced_cost(cost[:, changed], tokens[:, None], changed)
        return cost, latency

    @cached_property
    def _both(self) -> AmountModel:
        """Cost and latency side by side: one product and one exponential for a query.

        Its vectors are rows, which a single query's row meets twice as fast.
        """
        cost, latency = self.cost.arrays(), self.latency.arrays()
        side = {n: np.concatenate([cost[n], latency[n]], axis=-1) for n in cost}
        return AmountModel(**{n: np.atleast_2d(array) for n, array in side.items()})

    @cached_property
    def _unseen(self) -> NDArray[np.intp]:
        """Models whose cost was never measured."""
        return np.flatnonzero(np.isnan(self.cost.smear))

    @cached_property
    def _changed(self) -> NDArray[np.intp]:
        """Models whose prices changed since the costs were learned."""
        return np.flatnonzero(np.isfinite(self.repriced[0]))

    def _repriced_cost(
        self, cost: FloatArray, tokens: FloatArray, columns: NDArray[np.intp]
    ) -> FloatArray:
        """Costs `[Q, C]` learned at the old prices of `columns`, at their present ones."""
        old_in, old_out, out = self.fallback[:, columns]
        new_in, new_out = self.repriced[:, columns]
        from_tokens = tokens * new_in + out * new_out
        prompt = np.minimum(cost, tokens * old_in)
        # A part that was free says nothing of its tokens; they are expected as in `fallback`.
        prompt_now = np.where(old_in > 0, prompt * new_in / _positive(old_in), tokens * new_in)
        rest_now = np.where(
            old_out > 0, (cost - prompt) * new_out / _positive(old_out), out * new_out
        )
        known = np.isfinite(cost) & np.isfinite(old_in) & np.isfinite(old_out)
        return np.asarray(np.where(known, prompt_now + rest_now, from_tokens), np.float64)

    def with_prices(self, column: int, price_in: float, price_out: float) -> CostModel:
        """The same with the prices per token (USD) of one model that hold from here on."""
        repriced = self.repriced.copy()
        repriced[:, column] = price_in, price_out
        return replace(self, repriced=repriced)

    def with_model(
        self, *, cost: float, latency: float, price_in: float, price_out: float
    ) -> CostModel:
        """The same with one more model: mean cost and latency, or prices per token; NaN unknown."""
        out = float(np.nanmedian(self.fallback[2])) if self.fallback.size else 0.0
        return CostModel(
            cost=self.cost.with_constant(cost),
            latency=self.latency.with_constant(latency),
            fallback=np.column_stack([self.fallback, [price_in, price_out, out]]),
            tokens_per_char=self.tokens_per_char,
            repriced=np.column_stack([self.repriced, [np.nan, np.nan]]),
        )

    def without(self, column: int) -> CostModel:
        """The same without one model."""
        return CostModel(
            cost=self.cost.without(column),
            latency=self.latency.without(column),
            fallback=np.delete(self.fallback, column, axis=1),
            tokens_per_char=self.tokens_per_char,
            repriced=np.delete(self.repriced, column, axis=1),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The model as arrays, to be stored."""
        named = prefixed("cost.", self.cost.arrays()) | prefixed("latency.", self.latency.arrays())
        return named | {
            "fallback": self.fallback,
            "repriced": self.repriced,
            "tokens_per_char": np.array([self.tokens_per_char]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CostModel:
        """What `arrays` returned."""
        return cls(
            cost=AmountModel(**under("cost.", arrays)),
            latency=AmountModel(**under("latency.", arrays)),
            fallback=arrays["fallback"],
            tokens_per_char=float(arrays["tokens_per_char"][0]),
            repriced=arrays["repriced"],
        )


def fit_cost_model(data: RoutingData, design: NDArray[np.float32]) -> CostModel:
    """Learn what answers take from `data`, whose queries are the rows of `design`.

    Without any output tokens in `data` the fallback counts the prompt alone: a lower bound that
    still orders models by price.
    """
    chars = np.array([len(t) for t in data.texts], np.float64)
    inputs, outputs = data.matrix("input_tokens"), data.matrix("output_tokens")
    ratio = np.nansum(inputs) / max(
        1.0, np.nansum(np.where(np.isfinite(inputs), chars[:, None], 0))
    )
    typical = float(np.nanmedian(outputs)) if np.isfinite(outputs).any() else 0.0
    seen: NDArray[np.bool_] = np.isfinite(outputs).sum(axis=0) > 0
    out = _column(np.nanmean, outputs, seen, typical)
    prices = data.models[["price_in_per_mtok", "price_out_per_mtok"]].to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    return CostModel(
        cost=fit_amounts(design, data.cost),
        latency=fit_amounts(design, data.latency),
        fallback=np.concatenate([prices.T / 1e6, out[None]]),
        tokens_per_char=float(ratio) if ratio > 0 else TOKENS_PER_CHAR,
        repriced=np.full((2, len(data.model_names)), np.nan),
    )


def _positive(prices: FloatArray) -> FloatArray:
    return np.where(prices > 0, prices, 1.0)


def _column(function: Any, matrix: FloatArray, some: NDArray[np.bool_], rest: float) -> FloatArray:
    """A NaN-skipping statistic of each column that has values, `rest` for the others."""
    result = np.full(matrix.shape[1], rest)
    if some.any():
        result[some] = function(matrix[:, some], axis=0)
    return result
