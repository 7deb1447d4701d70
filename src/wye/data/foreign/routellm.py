"""RouteLLM's evaluation sets: one CSV a benchmark, one column a model with whether it was right.

Reads `routellm/evals` (or the repository that holds it) with `mmlu/responses/*.csv`,
`gsm8k/gsm8k_responses.csv` and `mt_bench/{question,judgements}.jsonl`, a folder of such CSVs, or a
single one. A CSV has `prompt`, a column for each model with True or False, and may have
`<model>_response`. MT-Bench judgements are 1 to 10 for each of two turns: quality is
(mean - 1) / 9, and the text is the first turn.

Source: github.com/lm-sys/RouteLLM, routellm/evals.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wye.data.errors import DataError
from wye.data.foreign.wide import (
    WideTable,
    from_wide,
    is_outcome_column,
    numbers,
    require_text,
)
from wye.data.routing_data import RoutingData
from wye.data.schema import Table
from wye.data.tables import read_csv, read_jsonl


def read_routellm(source: Path) -> RoutingData:
    """Outcomes of RouteLLM's evaluation files at `source`.

    `dataset` is `mmlu:<subject>`, `gsm8k`, `mtbench:<category>`, or the name of the file. The split
    is by hash of the question. Costs are unknown.

    Raises:
        DataError: no such file is there, or a row is not as described above.
    """
    files = [source] if source.is_file() else _csv_files(source)
    parts = [_benchmark(path) for path in files]
    if source.is_dir():
        parts += [_mt_bench(path.parent) for path in sorted(source.rglob("judgements.jsonl"))]
    if not parts:
        raise DataError(
            f"{source} holds no evaluation file of RouteLLM: expected mmlu/responses/*.csv, "
            "gsm8k/gsm8k_responses.csv or mt_bench/judgements.jsonl"
        )
    return from_wide(parts, name="routellm", source=str(source))


def _csv_files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*.csv"))
        if path.parent == folder or path.parent.name == "responses" or "_responses" in path.stem
    ]


def _benchmark(path: Path) -> WideTable:
    table = read_csv(path)
    texts = require_text(table, "prompt")
    models = tuple(
        str(c)
        for c in table.frame.columns
        if c != "prompt"
        and not str(c).endswith("_response")
        and not str(c).startswith("Unnamed")
        and str(c) != ""
        and is_outcome_column(table.frame[c])
    )
    if not models:
        raise DataError(
            f"{path}: no column holds the outcomes of a model (True or False); the columns are "
            f"{[str(c) for c in table.frame.columns]}"
        )
    dataset = path.stem.removesuffix("_responses")
    if dataset.startswith("mmlu_"):
        dataset = "mmlu:" + dataset.removeprefix("mmlu_")
    return WideTable(
        query_id=[f"{dataset}/{row}" for row in range(len(texts))],
        dataset=[dataset] * len(texts),
        text=texts,
        models=models,
        quality=np.column_stack([numbers(table, m) for m in models]),
    )


def _mt_bench(folder: Path) -> WideTable:
    questions, judgements = (
        read_jsonl(folder / "question.jsonl"),
        read_jsonl(folder / "judgements.jsonl"),
    )
    for table, columns in (
        (questions, ("question_id", "category", "turns")),
        (judgements, ("question_id", "model", "score")),
    ):
        _require(table, columns)
    scores = judgements.frame.assign(score=numbers(judgements, "score", high=10.0))
    # A judge that gave no grade wrote -1 in some versions; `numbers` refuses it by its row.
    mean = scores.groupby(["question_id", "model"])["score"].mean().unstack()
    turns = questions.frame["turns"].tolist()
    for position, value in enumerate(turns):
        if not (isinstance(value, list) and value and isinstance(value[0], str)):
            raise DataError(f"{questions.place(position, 'turns')} is not a list of texts")
    ids = questions.frame["question_id"].tolist()
    return WideTable(
        query_id=[f"mtbench/{i}" for i in ids],
        dataset=[f"mtbench:{c}" for c in questions.frame["category"]],
        text=[value[0] for value in turns],
        models=tuple(str(m) for m in mean.columns),
        quality=((mean.reindex(ids) - 1) / 9).to_numpy(dtype=np.float64),
    )


def _require(table: Table, columns: tuple[str, ...]) -> None:
    missing = [c for c in columns if c not in table.frame.columns]
    if missing:
        raise DataError(f"{table.source}: no column {missing}; it has {list(table.frame.columns)}")
