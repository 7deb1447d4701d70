"""From questions and the record of answers to the tables of the embedded set."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from embedded_set.kinds import Drawn
from embedded_set.question import Question, grade
from embedded_set.run import Record
from embedded_set.timing import Speed
from wye.data import RoutingData, normalise, split_by_question
from wye.gateway.pool import STRATEGIES

# What hosts ask for models of up to 4 billion parameters, both ways.
PRICE_PER_MTOK = 0.1
ANSWER_CHARS = 120


def outcomes_of(
    kinds: Mapping[str, Sequence[Question]],
    record: Mapping[tuple[str, str], Record],
    speeds: Mapping[str, Speed],
) -> RoutingData:
    """Graded outcomes of every question that every strategy has answered.

    Cost is `PRICE_PER_MTOK` on all tokens of all calls; latency is what `speeds` makes of the
    output tokens, null where there are none. `answer` is the text as graded, cut short;
    `confidence` is exp of the mean token log-probability of the call that made it.
    """
    queries: list[dict[str, object]] = []
    outcomes: list[dict[str, object]] = []
    for kind, questions in kinds.items():
        for question in questions:
            asked = normalise(question.text)
            answers = [record.get((asked, name)) for name in STRATEGIES]
            complete = [a for a in answers if a is not None]
            if len(complete) < len(answers):
                continue
            query_id = f"{kind.replace(' ', '-')}-{len(queries):04d}"
            queries.append({"query_id": query_id, "dataset": kind, "text": question.text})
            outcomes += [
                _outcome(query_id, question, answer, speeds.get(answer.strategy))
                for answer in complete
            ]
    frame = pd.DataFrame(queries)
    frame["split"] = split_by_question(list(frame["text"]), test_share=0.2, seed=0)
    models = pd.DataFrame(
        {
            "model": name,
            "provider": "wye",
            "price_in_per_mtok": PRICE_PER_MTOK,
            "price_out_per_mtok": PRICE_PER_MTOK,
            "params_b": 0.135,
            "context": 2048,
        }
        for name in STRATEGIES
    )
    return RoutingData(
        queries=frame, outcomes=pd.DataFrame(outcomes), models=models, name="embedded"
    )


def write_tables(data: RoutingData, folder: Path) -> None:
    """Write the three tables as zstd parquet, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("queries", "outcomes", "models"):
        target = folder / f"{name}.parquet"
        part = target.with_suffix(".part")
        frame: pd.DataFrame = getattr(data, name)
        frame.to_parquet(part, index=False, compression="zstd")
        os.replace(part, target)


def write_lines(rows: Sequence[Mapping[str, str]], target: Path) -> None:
    """Write JSON lines, whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(text, target)


def write_text(text: str, target: Path) -> None:
    """Write a text file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, delete=False, encoding="utf-8"
    ) as part:
        part.write(text)
    os.chmod(part.name, 0o644)
    os.replace(part.name, target)


def example_rows(drawn: Sequence[Drawn]) -> list[dict[str, str]]:
    """The worked examples of every kind, by topic."""
    return [
        {
            "topic": d.kind,
            "question": q.text,
            "answer": q.answer.capitalize() if q.grader == "yes_no" else q.answer,
        }
        for d in drawn
        for q in d.examples
    ]


def _outcome(
    query_id: str, question: Question, answer: Record, speed: Speed | None
) -> dict[str, object]:
    tokens = answer.input_tokens + answer.output_tokens
    return {
        "query_id": query_id,
        "model": answer.strategy,
        "quality": float(grade(answer.text, question)),
        "cost_usd": tokens * PRICE_PER_MTOK / 1e6,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "latency_s": None if speed is None else round(speed.seconds(answer.output_tokens), 3),
        "answer": answer.text[:ANSWER_CHARS],
        "confidence": None if answer.confidence is None else round(answer.confidence, 4),
    }
