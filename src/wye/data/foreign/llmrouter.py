"""LLMRouter's routing data: scores of every model for a question.

Two layouts are read, as .json (a list), .jsonl or .csv:

- one row a question: `question` (or `query`) and `scores` {model: score};
- one row an answer: `query`, `model_name`, `performance`, and where known `task_name`,
  `prompt_tokens` (or `input_tokens`), `completion_tokens` (or `output_tokens`), `cost`,
  `response_time`. A row whose `response` starts with ERROR got no answer: its outcome is unknown.
  Several answers of one model to one question are averaged.

A folder is searched for such files, for question files with `task_name` and `query`, which give the
task of a question, and for `default_llm.json`, which gives price and size of a model. A file with
`train` or `test` in its name gives its questions that split; otherwise the hash of the question
does.

Source: github.com/ulab-uiuc/LLMRouter, data/ and llmrouter/data/api_calling_evaluation.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wye.data.errors import DataError
from wye.data.foreign.wide import from_tables, numbers, require_text
from wye.data.questions import split_by_question
from wye.data.routing_data import RoutingData
from wye.data.schema import Table
from wye.data.tables import read_csv, read_jsonl, read_text

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = {
    "performance": "quality",
    "prompt_tokens": "input_tokens",
    "input_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "output_tokens": "output_tokens",
    "cost": "cost_usd",
    "response_time": "latency_s",
}
_MODEL_FILE = "default_llm.json"
_NO_TASK = "llmrouter"


def read_llmrouter(source: Path) -> RoutingData:
    """Outcomes of LLMRouter's files at `source`, a file or a folder.

    Raises:
        DataError: no such file is there, or a row is not as described above.
    """
    tables = [_read(path) for path in ([source] if source.is_file() else _files(source))]
    answers = [_answers(table) for table in tables if _is_outcomes(table)]
    if not answers:
        raise DataError(
            f"{source} holds no routing data of LLMRouter: expected rows with question and scores, "
            "or with query, model_name and performance (.json, .jsonl or .csv)"
        )
    return _assemble(answers, _tasks(tables), _models(source), source)


def _files(folder: Path) -> list[Path]:
    """Files that may hold rows; a JSON file that is no list, such as a configuration, does not."""
    found = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".jsonl", ".csv")]
    kept = [p for p in found if p.name != _MODEL_FILE and "embedding" not in p.name]
    return [p for p in kept if p.suffix != ".json" or isinstance(_json(p), list)]


def _read(path: Path) -> Table:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".csv":
        return read_csv(path)
    import pandas as pd

    rows = _json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of objects, got {type(rows).__name__}")
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {position + 1}: expected an object")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        pd.DataFrame({n: pd.Series([r.get(n) for r in rows], dtype=object) for n in names}),
        str(path),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error


def _is_outcomes(table: Table) -> bool:
    columns = set(table.frame.columns)
    return "scores" in columns or {"model_name", "performance"} <= columns


def _answers(table: Table) -> pd.DataFrame:
    frame = _from_scores(table) if "scores" in table.frame.columns else _from_rows(table)
    stem = Path(table.source).stem.lower()
    sides = [side for side in ("train", "test") if side in re.split(r"[^a-z]+", stem)]
    return frame.assign(split=sides[0] if len(sides) == 1 else None)


def _from_scores(table: Table) -> pd.DataFrame:
    import pandas as pd

    column = "question" if "question" in table.frame.columns else "query"
    texts = require_text(table, column)
    rows = []
    for position, (text, scores) in enumerate(zip(texts, table.frame["scores"], strict=True)):
        value = _scores(table, position, scores)
        rows += [(text, model, score, position) for model, score in value.items()]
    frame = pd.DataFrame(rows, columns=["text", "model", "quality", "_row"])
    # Checked as one column, with the row of the question that each score stands in.
    positions = frame.pop("_row").to_numpy()
    places = positions + 1 if table.numbers is None else table.numbers[positions]
    scored = Table(frame, table.source + " (scores)", places, table.unit)
    frame["quality"] = numbers(scored, "quality")
    if "task_name" in table.frame.columns:
        frame["dataset"] = table.frame["task_name"].to_numpy()[positions]
    return frame.dropna(subset=["quality"])


def _scores(table: Table, position: int, value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            place = table.place(position, "scores")
            raise DataError(f"{place}: not a JSON object ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(f"{table.place(position, 'scores')}: expected {{model: score}}")
    return value


def _from_rows(table: Table) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        "text": require_text(table, "query"),
        "model": require_text(table, "model_name"),
    }
    for theirs, ours in _NUMBERS.items():
        if theirs in table.frame.columns and ours not in columns:
            columns[ours] = numbers(table, theirs, high=1.0 if ours == "quality" else None)
    if "task_name" in table.frame.columns:
        columns["dataset"] = table.frame["task_name"].to_numpy()
    frame = pd.DataFrame(columns)
    keep = frame["quality"].notna()
    if "response" in table.frame.columns:
        failed = table.frame["response"].astype("str").str.startswith("ERROR").fillna(False)
        keep &= ~failed.to_numpy(dtype=bool)
    return frame[keep]


def _tasks(tables: list[Table]) -> dict[str, str]:
    """The task of each question text, from every file that names both."""
    tasks: dict[str, str] = {}
    for table in tables:
        if {"task_name", "query"} <= set(table.frame.columns):
            tasks |= dict(zip(table.frame["query"], table.frame["task_name"], strict=True))
    return tasks


def _assemble(
    answers: list[pd.DataFrame], tasks: dict[str, str], models: pd.DataFrame | None, source: Path
) -> RoutingData:
    import pandas as pd

    every = pd.concat(answers, ignore_index=True)
    queries = every.drop_duplicates("text")[["text", "split"]].reset_index(drop=True)
    own = every.dropna(subset=["dataset"]) if "dataset" in every.columns else every.iloc[:0]
    named = {**tasks, **(dict(zip(own["text"], own["dataset"], strict=True)) if len(own) else {})}
    queries["dataset"] = [str(named.get(text) or _NO_TASK) for text in queries["text"]]
    queries["query_id"] = [f"{i:06d}" for i in range(len(queries))]
    by_hash = split_by_question(queries["text"].tolist())
    queries["split"] = [
        by_hash[i] if pd.isna(side) else side for i, side in enumerate(queries["split"])
    ]
    measured = [c for c in dict.fromkeys(_NUMBERS.values()) if c in every.columns]
    outcomes = every.groupby(["text", "model"], sort=False)[measured].mean().reset_index()
    for column in ("input_tokens", "output_tokens"):
        if column in outcomes.columns:
            outcomes[column] = outcomes[column].round()
    ids = dict(zip(queries["text"], queries["query_id"], strict=True))
    outcomes["query_id"] = [ids[t] for t in outcomes.pop("text")]
    present = pd.DataFrame({"model": list(dict.fromkeys(outcomes["model"]))})
    if models is not None:
        present = present.merge(models, on="model", how="left")
    columns = ["query_id", "dataset", "text", "split"]
    return from_tables(queries[columns], outcomes, present, name="llmrouter", source=str(source))


def _models(source: Path) -> pd.DataFrame | None:
    """Price and size of each model, where the folder has LLMRouter's list of candidates."""
    import pandas as pd

    found = sorted(source.rglob(_MODEL_FILE)) if source.is_dir() else []
    if not found:
        return None
    listed = _json(found[0])
    if not isinstance(listed, dict):
        raise DataError(f"{found[0]}: expected a JSON object {{model: description}}")
    rows = []
    for name, entry in listed.items():
        if not isinstance(entry, dict):
            raise DataError(f"{found[0]}: {name!r} is not an object")
        rows.append(
            {
                "model": name,
                "provider": str(entry.get("model", "")).split("/")[0] or None,
                "price_in_per_mtok": entry.get("input_price"),
                "price_out_per_mtok": entry.get("output_price"),
                "params_b": _billions(entry.get("size")),
            }
        )
    return pd.DataFrame(rows)


def _billions(size: object) -> float | None:
    match = re.fullmatch(r"\s*([0-9.]+)\s*([BM])\s*", str(size), flags=re.IGNORECASE)
    if match is None:
        return None
    return float(match[1]) / (1000 if match[2].upper() == "M" else 1)
