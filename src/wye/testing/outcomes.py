"""Made outcomes for tests: from matrices, or with a known structure.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wye.data import RoutingData
    from wye.query.base import FloatArray


def routing_data(
    quality: ArrayLike,
    cost: ArrayLike | None = None,
    *,
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    name: str = "made",
) -> RoutingData:
    """`RoutingData` of a matrix of quality and, if given, one of cost.

    Args:
        quality: `[Q, M]`, 0 to 1, NaN for a pair that was not run.
        cost: USD, as broadcasts to `[Q, M]`; unknown when None.
        datasets: of each query; one for all when None.
        models: names; `m0`, `m1`, ... when None.

    Example:
        >>> routing_data([[1.0, 0.0]], models=["a", "b"]).model_names
        ('a', 'b')
    """
    import pandas as pd

    from wye.data import RoutingData

    values = np.asarray(quality, dtype=np.float64)
    n, m = values.shape
    prices = np.broadcast_to(np.nan if cost is None else np.asarray(cost), (n, m))
    names = [f"m{k}" for k in range(m)] if models is None else list(models)
    query, model = np.nonzero(np.isfinite(values))
    ids = [f"q{i}" for i in range(n)]
    outcomes = pd.DataFrame(
        {
            "query_id": [ids[i] for i in query],
            "model": [names[k] for k in model],
            "quality": values[query, model],
            "cost_usd": prices[query, model].astype(np.float64),
            "input_tokens": pd.array([pd.NA] * query.size, dtype="Int32"),
            "output_tokens": pd.array([pd.NA] * query.size, dtype="Int32"),
            "latency_s": np.full(query.size, np.nan),
        }
    )
    queries = pd.DataFrame(
        {
            "query_id": ids,
            "dataset": ["d"] * n if datasets is None else [str(d) for d in datasets],
            "text": [f"question number {i}" for i in range(n)],
            "split": ["test"] * n,
        }
    )
    table = pd.DataFrame(
        {
            "model": names,
            "provider": ["made"] * m,
            "price_in_per_mtok": np.full(m, np.nan),
            "price_out_per_mtok": np.full(m, np.nan),
            "params_b": np.full(m, np.nan),
            "context": pd.array([pd.NA] * m, dtype="Int64"),
        }
    )
    return RoutingData(queries=queries, outcomes=outcomes, models=table, name=name)


def estimate_of(
    data: RoutingData,
    quality: ArrayLike,
    cost: ArrayLike | None = None,
    *,
    router_cost: float = 0.0,
) -> Estimate:
    """An `Estimate` of all queries of `data`; costs unknown when None, latencies always."""
    values = np.asarray(quality, dtype=np.float64)
    price = np.nan if cost is None else np.asarray(cost, dtype=np.float64)
    return Estimate(
        models=data.model_names,
        quality=values,
        quality_std=np.full(values.shape, 0.05),
        cost=np.broadcast_to(price, values.shape),
        latency=np.full(values.shape, np.nan),
        novelty=np.zeros(values.shape[0]),
        router_cost=router_cost,
    )


def two_kinds(
    n_queries: int = 400, seed: int = 0, *, gain: float = 0.5, lead: float = 0.09
) -> tuple[RoutingData, FloatArray]:
    """Outcomes of a `cheap` and a `dear` model, and the chances `[Q, 2]` behind them.

    The dear model is right nine times in ten. The cheap one, at a tenth of its cost, is right less
    often by `gain` on every second query ("hard"), and more often by `lead` on the others ("easy").
    """
    rng = np.random.default_rng(seed)
    hard = np.arange(n_queries) % 2 == 0
    chance = np.stack([np.where(hard, 0.9 - gain, 0.9 + lead), np.full(n_queries, 0.9)], axis=1)
    quality = (rng.random((n_queries, 2)) < chance).astype(np.float64)
    cost = np.array([0.001, 0.01]) * rng.uniform(0.8, 1.2, (n_queries, 2))
    data = routing_data(
        quality,
        cost,
        datasets=["hard" if h else "easy" for h in hard],
        models=("cheap", "dear"),
        name="two kinds",
    )
    return data, chance
