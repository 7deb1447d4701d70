"""The long part: every strategy answers every question, on record as it goes.

The record is a file of JSON lines, one answer each. A run that is stopped goes on where it was, and
answers are graded later, from the record, so that what the model said is never touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from embedded_set.question import Question
from wye.data.questions import normalise
from wye.gateway.pool import (
    STRATEGIES,
    AnswerParams,
    EmbeddedModel,
    ModelClient,
    Strategy,
    StrategyAnswer,
)
from wye.gateway.pool.client import Completion
from wye.gateway.pool.nearest import worked_examples

MAX_TOKENS = 20
# An answer ends with its line or first sentence.
STOP = ("\n", ". ")
BLOCK = 440
# Strategies whose calls share prompts run together. Prompts that change with the topic go through
# few slots, since each slot must read them anew.
PHASES = (
    (("direct",), 6),
    (("few_shot", "majority"), 2),
    (("retrieval",), 6),
    (("step_by_step",), 6),
    (("tool",), 6),
)
SLOTS = max(slots for _, slots in PHASES)


@dataclass(frozen=True)
class Record:
    """One answer on record. `asked` is the normalised question."""

    asked: str
    strategy: str
    text: str
    input_tokens: int
    output_tokens: int
    latency_s: float
    confidence: float | None
    finish_reason: str
    calls: int


class Repeats(ModelClient):
    """A client that takes what `direct` answered from the record instead of asking it again.

    A strategy that falls back on a direct answer asks exactly what `direct` asked.
    """

    def __init__(self, base_url: str, known: Mapping[tuple[str, str], Record]) -> None:
        super().__init__(base_url, timeout_s=600)
        self._known = known

    async def complete(self, messages: Sequence[dict[str, str]], **options: Any) -> Completion:
        """See `ModelClient.complete`."""
        direct = self._known.get((normalise(messages[0]["content"]), "direct"))
        if len(messages) > 1 or direct is None:
            return await super().complete(messages, **options)
        return Completion(
            text=direct.text,
            input_tokens=direct.input_tokens,
            output_tokens=direct.output_tokens,
            finish_reason=direct.finish_reason,
            confidence=direct.confidence,
        )


def read_records(path: Path) -> dict[tuple[str, str], Record]:
    """The answers on record, by normalised question and strategy; none where no file is."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    # A run that was killed may have left its last line half-written.
    whole = text[: text.rfind("\n") + 1].splitlines()
    found = [Record(**json.loads(line)) for line in whole]
    return {(r.asked, r.strategy): r for r in found}


async def run(questions: Sequence[Question], path: Path, *, processes: int, seconds: float) -> None:
    """Answer what is not on record yet, until done or out of time.

    Goes block by block, and within a block strategy by strategy and topic by topic: what follows
    each other shares a prefix, which then stays in the server's cache.

    Args:
        questions: in the order in which they are to be answered.
        path: the record, which grows.
        processes: servers, each with one thread.
        seconds: after these no answer is begun.
    """
    known = read_records(path)
    missing = sum((normalise(q.text), s) not in known for q in questions for s in STRATEGIES)
    if not missing:
        return
    deadline = time.monotonic() + seconds
    models = [EmbeddedModel(slots=SLOTS, context=1024, threads=1) for _ in range(processes)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        clients = [Repeats(model.start().base_url, known) for model in models]
        if path.exists():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)
        with path.open("a", encoding="utf-8") as file, Progress(*columns) as bar:
            task = bar.add_task("answers", total=missing)
            for start in range(0, len(questions), BLOCK):
                block = questions[start : start + BLOCK]
                for names, slots in PHASES:
                    todo = [
                        (q, STRATEGIES[name])
                        for q in sorted(block, key=lambda q: worked_examples(q.text))
                        for name in names
                        if (normalise(q.text), name) not in known
                    ]
                    half = -(-len(todo) // processes)
                    workers = [
                        _work(queue, client, known, file, deadline, (bar, task))
                        for i, client in enumerate(clients)
                        for queue in [todo[i * half : (i + 1) * half]]
                        for _ in range(slots)
                    ]
                    await asyncio.gather(*workers)
        for client in clients:
            await client.aclose()
    finally:
        for model in models:
            model.stop()


async def ask(question: Question, strategy: Strategy, client: ModelClient) -> StrategyAnswer:
    """One answer, with what the whole set asks of an answer."""
    params = AnswerParams(
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        seed=zlib.crc32(normalise(question.text).encode()) % 2**31,
        stop=STOP,
        confidence=True,
    )
    return await strategy.answer(
        [{"role": "user", "content": question.text}], client=client, params=params
    )


async def _work(
    queue: list[tuple[Question, Strategy]],
    client: ModelClient,
    known: dict[tuple[str, str], Record],
    file: TextIO,
    deadline: float,
    progress: tuple[Progress, TaskID],
) -> None:
    while queue and time.monotonic() < deadline:
        question, strategy = queue.pop(0)
        done = await ask(question, strategy, client)
        record = Record(
            asked=normalise(question.text),
            strategy=strategy.name,
            text=done.text,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            latency_s=done.latency_s,
            confidence=done.confidence,
            finish_reason=done.finish_reason,
            calls=sum(step.action in {"answer", "expression", "sample"} for step in done.steps),
        )
        known[record.asked, record.strategy] = record
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        file.flush()
        progress[0].advance(progress[1])
