"""A small set with every kind of gap: unknown outcomes, unknown costs, uneven coverage."""

import pandas as pd
import pytest

from wye.data import RoutingData


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """Tables that are right, for tests to break."""
    return {
        "queries": pd.DataFrame(
            {
                "query_id": ["q1", "q2", "q3"],
                "dataset": ["sums", "sums", "facts"],
                "text": ["1 + 1?", "2 + 2?", "Capital of France?"],
                "split": ["train", "test", "train"],
            }
        ),
        "outcomes": pd.DataFrame(
            {
                "query_id": ["q1", "q1", "q2", "q3"],
                "model": ["small", "large", "small", "large"],
                "quality": [0.0, 1.0, 0.25, 1.0],
                "cost_usd": [1e-6, None, 2e-6, 3e-5],
                "input_tokens": [5, 5, None, 7],
                "output_tokens": [1, 2, 3, None],
                "latency_s": [0.1, None, 0.3, 0.7],
                "judge": ["a", "b", "a", "b"],
            }
        ),
        "models": pd.DataFrame(
            {
                "model": ["small", "large"],
                "provider": ["here", None],
                "price_in_per_mtok": [0.1, None],
                "price_out_per_mtok": [0.2, None],
                "params_b": [0.135, None],
                "context": [2048, None],
            }
        ),
    }


@pytest.fixture
def data(tables: dict[str, pd.DataFrame]) -> RoutingData:
    """The same as a set."""
    return RoutingData(**tables, name="tiny")
