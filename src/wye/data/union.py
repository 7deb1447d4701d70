"""Two sets in one: identical rows are merged, contradictions are errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wye.data.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from wye.data.routing_data import RoutingData

_KEYS = {"queries": ["query_id"], "outcomes": ["query_id", "model"], "models": ["model"]}
_ADVICE = {
    "queries": "if they are different questions, give one set other ids with with_prefix()",
    "outcomes": "keep one of the two outcomes",
    "models": "if they are different models, rename one; if not, settle on one description",
}


def union(first: RoutingData, second: RoutingData) -> RoutingData:
    """Every query, outcome and model of both sets, those of `first` first.

    A row that is in both is merged where it says the same; a value that only one of them knows is
    kept.

    Raises:
        DataError: the same query, outcome or model says different things in the two sets.
    """
    tables = {
        table: _merge(table, getattr(first, table), getattr(second, table), first.name, second.name)
        for table in _KEYS
    }
    return type(first)._trusted(**tables, name=f"{first.name}+{second.name}")


def _merge(
    table: str, left: pd.DataFrame, right: pd.DataFrame, left_name: str, right_name: str
) -> pd.DataFrame:
    import pandas as pd

    keys = _KEYS[table]
    left_rows, right_rows = left.set_index(keys), right.set_index(keys)
    shared = left_rows.index.intersection(right_rows.index)
    new = right_rows[~right_rows.index.isin(shared)]
    if len(shared) == 0:
        return pd.concat([left, new.reset_index()], ignore_index=True)
    for column in left_rows.columns.intersection(right_rows.columns):
        ours, theirs = left_rows.loc[shared, column], right_rows.loc[shared, column]
        differs = (ours.notna() & theirs.notna() & (ours != theirs).fillna(False)).to_numpy(bool)
        if differs.any():
            key = shared[differs][0]
            raise DataError(
                f"{table}, column {column!r}: {dict(zip(keys, _tuple(key), strict=True))} is "
                f"{ours.to_numpy(object)[differs][0]!r} in {left_name} and "
                f"{theirs.to_numpy(object)[differs][0]!r} in {right_name} "
                f"({int(differs.sum())} such rows); {_ADVICE[table]}"
            )
    filled = left_rows.combine_first(right_rows.loc[shared])
    merged = filled.loc[left_rows.index, [*left_rows.columns, *_only(right_rows, left_rows)]]
    merged = merged.astype({c: left_rows[c].dtype for c in left_rows.columns})
    return pd.concat([merged.reset_index(), new.reset_index()], ignore_index=True)


def _only(of: pd.DataFrame, without: pd.DataFrame) -> list[str]:
    return [c for c in of.columns if c not in without.columns]


def _tuple(key: object) -> tuple[object, ...]:
    return key if isinstance(key, tuple) else (key,)
