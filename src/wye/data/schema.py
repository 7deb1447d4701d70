"""The three tables of routing data and what each column may hold.

`check_tables` turns three frames of any origin into the canonical types or says, with file, row and
column, why it cannot. Columns beyond the schema are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from wye.data.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["text", "number", "count"]
# What pandas calls columns that hold numbers and null alone.
_NUMERIC = ("integer", "floating", "mixed-integer-float", "integer-na", "empty")
TABLES = ("queries", "outcomes", "models")


@dataclass(frozen=True)
class Column:
    """One column: its kind, whether it may be null, and the range of its numbers."""

    name: str
    kind: Kind
    nullable: bool = False
    blank: bool = False
    high: float | None = None
    unit: str = ""


SCHEMA: dict[str, tuple[Column, ...]] = {
    "queries": (
        Column("query_id", "text"),
        Column("dataset", "text"),
        Column("text", "text"),
        Column("split", "text"),
    ),
    "outcomes": (
        Column("query_id", "text"),
        Column("model", "text"),
        Column("quality", "number", high=1.0),
        Column("cost_usd", "number", nullable=True, unit="USD"),
        Column("input_tokens", "count", nullable=True, unit="tokens"),
        Column("output_tokens", "count", nullable=True, unit="tokens"),
        Column("latency_s", "number", nullable=True, unit="seconds"),
    ),
    "models": (
        Column("model", "text"),
        Column("provider", "text", nullable=True, blank=True),
        Column("price_in_per_mtok", "number", nullable=True, unit="USD per million tokens"),
        Column("price_out_per_mtok", "number", nullable=True, unit="USD per million tokens"),
        Column("params_b", "number", nullable=True, unit="billions of parameters"),
        Column("context", "count", nullable=True, unit="tokens"),
    ),
}


@dataclass(frozen=True)
class Table:
    """A frame and how to name its rows to a person.

    Attributes:
        frame: the rows as read.
        source: the file, or the name of the table where there is no file.
        numbers: `[rows]` place of each row in the source, from 1; None where it is its position.
        unit: what a place is called: `row` or `line`.
    """

    frame: pd.DataFrame
    source: str
    numbers: NDArray[np.int64] | None = None
    unit: Literal["row", "line"] = "row"

    def place(self, position: int, column: str | None = None) -> str:
        """`file, line 3, column 'quality'` or `file, row 3, ...` (both count from 1)."""
        number = position + 1 if self.numbers is None else int(self.numbers[position])
        return f"{self.source}, {self.unit} {number}" + (f", column {column!r}" if column else "")


def check_tables(
    queries: Table, outcomes: Table, models: Table
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three frames in canonical types and order of columns.

    Raises:
        DataError: a column is missing, a value has the wrong type or range, an id occurs twice, or
            an outcome names a query or model that its table does not have.
    """
    q, o, m = (
        _canonical(name, table)
        for name, table in zip(TABLES, (queries, outcomes, models), strict=True)
    )
    _unique(queries, q, ["query_id"])
    _unique(models, m, ["model"])
    _unique(outcomes, o, ["query_id", "model"])
    _known(outcomes, o, "query_id", q["query_id"], queries.source)
    _known(outcomes, o, "model", m["model"], models.source)
    return q, o, m


def _canonical(name: str, table: Table) -> pd.DataFrame:
    frame = table.frame.reset_index(drop=True)
    _require_columns(name, table)
    columns: dict[str, pd.Series] = {}
    for column in SCHEMA[name]:
        columns[column.name] = _convert(table, frame, column)
    for extra in frame.columns:
        if extra not in columns:
            columns[extra] = frame[extra]
    import pandas as pd

    return pd.DataFrame(columns, index=frame.index)


def _require_columns(name: str, table: Table) -> None:
    present = list(table.frame.columns)
    repeated = sorted({str(c) for c in present if present.count(c) > 1})
    if repeated:
        raise DataError(f"{table.source}: the columns {repeated} occur more than once")
    missing = [c.name for c in SCHEMA[name] if not c.nullable and c.name not in present]
    if missing:
        raise DataError(
            f"{table.source}: the {name} table lacks the columns {missing}; it has "
            f"{[str(c) for c in present]}. Required: "
            f"{[c.name for c in SCHEMA[name] if not c.nullable]}"
        )


def _convert(table: Table, frame: pd.DataFrame, column: Column) -> pd.Series:
    import pandas as pd

    if column.name not in frame.columns:
        null = {"text": "str", "number": "float64", "count": "Int64"}[column.kind]
        fill = None if column.kind == "text" else (pd.NA if column.kind == "count" else np.nan)
        return pd.Series([fill] * len(frame), index=frame.index, dtype=null)
    series = frame[column.name]
    null_rows = series.isna().to_numpy()
    if not column.nullable:
        _refuse(
            table,
            column.name,
            null_rows,
            "is null or NaN, expected a value"
            + ("; leave out the row of an outcome that is unknown" if column.high else ""),
        )
    if column.kind == "text":
        return _text(table, series, null_rows, column)
    return _number(table, series, null_rows, column)


def _text(
    table: Table, series: pd.Series, null_rows: NDArray[np.bool_], column: Column
) -> pd.Series:
    import pandas as pd

    if not isinstance(series.dtype, pd.StringDtype):
        values = series.to_numpy(dtype=object)
        if pd.api.types.infer_dtype(series, skipna=True) not in ("string", "empty"):
            wrong = np.fromiter((not isinstance(v, str) for v in values), bool, len(values))
            _refuse(table, column.name, wrong & ~null_rows, "is {value}, expected text", values)
        try:
            series = series.astype("str")
        except UnicodeEncodeError:
            broken = np.fromiter((not _encodable(v) for v in values), bool, len(values))
            _refuse(table, column.name, broken, "is not valid UTF-8 text (a lone surrogate)")
            raise
    series = series.astype("str")
    if not column.blank:
        empty = (series.str.strip() == "").to_numpy(dtype=bool)
        _refuse(table, column.name, empty, "is empty, expected text")
    return series


def _encodable(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(
    table: Table, series: pd.Series, null_rows: NDArray[np.bool_], column: Column
) -> pd.Series:
    import pandas as pd

    unit = f" ({column.unit})" if column.unit else ""
    expected = f"a number from 0 to {column.high:g}" if column.high else f"a number >= 0{unit}"
    if column.kind == "count":
        expected = f"a whole number >= 0{unit}"
    if pd.api.types.infer_dtype(series, skipna=True) not in _NUMERIC:
        values = series.to_numpy(dtype=object)
        wrong = np.fromiter((not _is_number(v) for v in values), bool, len(values)) & ~null_rows
        _refuse(table, column.name, wrong, "is {value}, expected " + expected, values)
    numbers = np.full(len(series), np.nan)
    numbers[~null_rows] = series[~null_rows].astype("float64").to_numpy()
    outside = np.isinf(numbers) | (numbers < 0)
    if column.high is not None:
        outside |= numbers > column.high
    if column.kind == "count":
        outside |= np.isfinite(numbers) & (numbers != np.floor(numbers))
    _refuse(table, column.name, outside, "is {value}, expected " + expected, numbers)
    result = pd.Series(numbers, index=series.index)
    return result.astype("Int64") if column.kind == "count" else result


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _refuse(
    table: Table,
    column: str,
    bad: NDArray[np.bool_],
    problem: str,
    values: Sequence[object] | NDArray[np.generic] | None = None,
) -> None:
    if not bad.any():
        return
    first = int(np.argmax(bad))
    shown = "" if values is None else _shorten(values[first])
    more = int(bad.sum()) - 1
    raise DataError(
        f"{table.place(first, column)} {problem.format(value=shown)}"
        + (f" (and {more} more such rows)" if more else "")
    )


def _shorten(value: object) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique(table: Table, frame: pd.DataFrame, keys: list[str]) -> None:
    repeated = frame.duplicated(keys).to_numpy()
    if not repeated.any():
        return
    second = int(np.argmax(repeated))
    key = tuple(frame.iloc[second][keys])
    same = (frame[keys] == frame.iloc[second][keys]).all(axis=1).to_numpy()
    what = ", ".join(f"{k}={_shorten(v)}" for k, v in zip(keys, key, strict=True))
    raise DataError(
        f"{table.place(second)}: {what} stands twice, first in "
        f"{table.place(int(np.argmax(same))).removeprefix(table.source + ', ')}; keep one"
    )


def _known(table: Table, frame: pd.DataFrame, column: str, allowed: pd.Series, other: str) -> None:
    unknown = ~frame[column].isin(allowed).to_numpy()
    _refuse(
        table,
        column,
        unknown,
        "is {value}, which " + other.replace("{", "{{").replace("}", "}}") + " does not have",
        frame[column].to_numpy(dtype=object),
    )
