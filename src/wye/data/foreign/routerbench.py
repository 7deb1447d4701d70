"""RouterBench's wide table: one row a prompt, three columns a model.

Columns `sample_id`, `prompt`, `eval_name`, and for each model `<model>` (0 to 1),
`<model>|total_cost` (USD) and `<model>|model_response`; `oracle_model_to_route_to` is derived and
left out. Reads .csv, .parquet and, only where the caller trusts it, .pkl.

Source: github.com/withmartian/routerbench; Hu et al. 2024, arXiv 2403.12031.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

from wye.data.errors import DataError
from wye.data.foreign.wide import WideTable, from_wide, is_outcome_column, numbers, require_text
from wye.data.routing_data import RoutingData
from wye.data.schema import Table
from wye.data.tables import read_csv, read_parquet

_OTHER = {"sample_id", "prompt", "eval_name", "oracle_model_to_route_to", "embedding"}
_PICKLES = (".pkl", ".pickle")


def read_routerbench(source: Path, *, trust_pickle: bool = False) -> RoutingData:
    """Outcomes of a RouterBench table.

    `dataset` is `eval_name`; the split is by hash of the question.

    Args:
        source: the table as .csv, .parquet or .pkl.
        trust_pickle: open a pickle. Opening one can run any code: only for files of your own.

    Raises:
        DataError: a pickle without `trust_pickle`, or the table is not as described above.
    """
    table = _read(source, trust_pickle)
    texts = [_prompt(text) for text in require_text(table, "prompt")]
    models = _models(table)
    costs = [
        numbers(table, f"{m}|total_cost", high=None)
        if f"{m}|total_cost" in table.frame.columns
        else np.full(len(texts), np.nan)
        for m in models
    ]
    part = WideTable(
        query_id=require_text(table, "sample_id"),
        dataset=require_text(table, "eval_name"),
        text=texts,
        models=models,
        quality=np.column_stack([numbers(table, m) for m in models]),
        cost_usd=np.column_stack(costs),
    )
    return from_wide([part], name="routerbench", source=str(source))


def _read(source: Path, trust_pickle: bool) -> Table:
    if source.suffix == ".csv":
        return read_csv(source)
    if source.suffix == ".parquet":
        return read_parquet(source)
    if source.suffix not in _PICKLES:
        raise DataError(
            f"{source} is not a RouterBench table: expected a .csv, .parquet or .pkl file"
        )
    if not trust_pickle:
        raise DataError(
            f"{source} is a pickle, and opening a pickle can run any code. If you trust where it "
            "comes from, pass --trust-pickle (trust_pickle=True); safer: convert it to parquet "
            "where you made it"
        )
    return _unpickle(source)


def _unpickle(source: Path) -> Table:
    import pickle

    import pandas as pd

    try:
        frame = pd.read_pickle(source)  # noqa: S301 - the caller said that the file is trusted
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
        raise DataError(f"{source} cannot be unpickled: {error}") from error
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{source} holds a {type(frame).__name__}, expected a pandas DataFrame")
    return Table(frame.reset_index(drop=True), str(source))


def _models(table: Table) -> tuple[str, ...]:
    columns = [str(c) for c in table.frame.columns]
    plain = [c for c in columns if "|" not in c and c not in _OTHER and not c.startswith("Unnamed")]
    paired = [c for c in plain if f"{c}|total_cost" in columns or f"{c}|model_response" in columns]
    models = paired or [c for c in plain if c and is_outcome_column(table.frame[c])]
    if not models:
        raise DataError(
            f"{table.source}: no column of a model; expected <model> beside <model>|total_cost, "
            f"the columns are {columns[:20]}"
        )
    return tuple(models)


def _prompt(text: str) -> str:
    """The prompt itself where the table holds a list of turns written as Python."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    is_turns = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    return "\n".join(value) if is_turns else text
