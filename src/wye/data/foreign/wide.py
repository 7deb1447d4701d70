"""Wide tables, one row a query and one column a model, as tidy outcomes.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.data.errors import DataError
from wye.data.questions import split_by_question
from wye.data.routing_data import RoutingData
from wye.data.schema import Table, check_tables

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

_WORDS = {"true": 1.0, "false": 0.0, "": float("nan"), "nan": float("nan"), "null": float("nan")}


@dataclass(frozen=True)
class WideTable:
    """Q queries and the quality (and cost in USD) of M models on each; NaN is unknown."""

    query_id: Sequence[str]
    dataset: Sequence[str]
    text: Sequence[str]
    models: tuple[str, ...]
    quality: Floats
    cost_usd: Floats | None = None
    split: Sequence[str] | None = None


def from_wide(parts: Sequence[WideTable], *, name: str, source: str) -> RoutingData:
    """One `RoutingData` from wide tables; a query without a split gets one from its question.

    Raises:
        DataError: an id, text or outcome is not as the schema says.
    """
    import pandas as pd

    queries = [
        pd.DataFrame(
            {
                "query_id": list(p.query_id),
                "dataset": list(p.dataset),
                "text": list(p.text),
                "split": list(split_by_question(p.text) if p.split is None else p.split),
            }
        )
        for p in parts
    ]
    models = list(dict.fromkeys(m for p in parts for m in p.models))
    return from_tables(
        pd.concat(queries, ignore_index=True),
        pd.concat([_outcomes(p) for p in parts], ignore_index=True),
        pd.DataFrame({"model": models}),
        name=name,
        source=source,
    )


def from_tables(
    queries: pd.DataFrame,
    outcomes: pd.DataFrame,
    models: pd.DataFrame,
    *,
    name: str,
    source: str,
) -> RoutingData:
    """`RoutingData` of derived tables, whose errors name the source that they come from."""
    tables = (
        Table(frame, f"{table} made from {source}")
        for table, frame in (("queries", queries), ("outcomes", outcomes), ("models", models))
    )
    return RoutingData._trusted(*check_tables(*tables), name=name)


def _outcomes(part: WideTable) -> pd.DataFrame:
    import pandas as pd

    rows, columns = np.nonzero(np.isfinite(part.quality))
    frame = pd.DataFrame(
        {
            "query_id": np.asarray(part.query_id, dtype=object)[rows],
            "model": np.asarray(part.models, dtype=object)[columns],
            "quality": part.quality[rows, columns],
        }
    )
    if part.cost_usd is not None:
        frame["cost_usd"] = part.cost_usd[rows, columns]
    return frame


def numbers(
    table: Table, column: str, *, high: float | None = 1.0, words: bool = True
) -> NDArray[np.float64]:
    """`[rows]` a column of numbers, or of true and false, as floats; blank is NaN.

    Raises:
        DataError: a value is neither, is negative, infinite, or above `high`; its row is named.
    """
    import pandas as pd

    series = table.frame[column]
    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = np.fromiter(
            (_number(table, column, i, v) for i, v in enumerate(series)), np.float64, len(series)
        )
    outside = np.isinf(values) | (values < 0)
    if high is not None:
        outside |= values > high
    if outside.any():
        first = int(np.argmax(outside))
        span = "a number >= 0" if high is None else f"a number from 0 to {high:g}, true or false"
        raise DataError(
            f"{table.place(first, column)} is {float(values[first])!r}, expected {span}"
        )
    return values


def _number(table: Table, column: str, position: int, value: object) -> float:
    import pandas as pd

    if value is None or value is pd.NA:
        return float("nan")
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return float(value)
    text = str(value).strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{table.place(position, column)} is {text[:40]!r}, expected a number, true or false"
        ) from None


def is_outcome_column(series: pd.Series) -> bool:
    """Whether a column holds true, false, numbers and blanks alone, and at least one of them."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        return bool(series.notna().any())
    texts = series.dropna().astype(str).str.strip().str.lower()
    texts = texts[~texts.isin([w for w, v in _WORDS.items() if np.isnan(v)])]
    rest = texts[~texts.isin(list(_WORDS))]
    parsed = pd.to_numeric(rest, errors="coerce")
    return len(texts) > 0 and bool(parsed.notna().all())


def require_text(table: Table, column: str) -> list[str]:
    """A column that must hold text in every row.

    Raises:
        DataError: the column is missing, or a row has no text in it; the row is named.
    """
    if column not in table.frame.columns:
        raise DataError(
            f"{table.source}: no column {column!r}; it has {[str(c) for c in table.frame.columns]}"
        )
    values = table.frame[column].tolist()
    for position, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{table.place(position, column)} is {value!r}, expected text")
    return values
