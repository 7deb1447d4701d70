"""The long part: every strategy answers every question, on record as it goes.

The record is a file of JSON lines, one answer each. A run that is stopped goes on where it was, and
answers are graded later, from the record, so that what the model said is never touched.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Sequence
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
    """A client that makes an identical greedy call once, and waits out its measured time after.

    A strategy that falls back on a direct answer asks exactly what `direct` asked.
    """

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url, timeout_s=600)
        self._known: dict[str, tuple[Completion, float]] = {}

    async def complete(self, messages: Sequence[dict[str, str]], **options: Any) -> Completion:
        """See `ModelClient.complete`."""
        if options.get("temperature") or options.get("grammar"):
            return await super().complete(messages, **options)
        key = json.dumps([messages, {**options, "seed": None}])
        if key in self._known:
            done, seconds = self._known[key]
            await asyncio.sleep(seconds)
            return done
        began = time.perf_counter()
        done = await super().complete(messages, **options)
        self._known[key] = (done, time.perf_counter() - began)
        return done


def read_records(path: Path) -> dict[tuple[str, str], Record]:
    """The answers on record, by normalised question and strategy; none where no file is."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Record(**json.loads(line)) for line in lines]
    return {(r.asked, r.strategy): r for r in found}


async def run(questions: Sequence[Question], path: Path, *, processes: int, seconds: float) -> bool:
    """Answer what is not on record yet, until done or out of time.

    Goes block by block, and within a block strategy by strategy and topic by topic: what follows
    each other shares a prefix, which then stays in the server's cache.

    Args:
        questions: in the order in which they are to be answered.
        path: the record, which grows.
        processes: servers, each with one thread.
        seconds: after these no answer is begun.

    Returns:
        Whether every question has every answer.
    """
    known = read_records(path)
    deadline = time.monotonic() + seconds
    models = [EmbeddedModel(slots=SLOTS, context=1024, threads=1) for _ in range(processes)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        clients = [Repeats(model.start().base_url) for model in models]
        with path.open("a", encoding="utf-8") as file, Progress(*columns) as bar:
            task = bar.add_task("answers", total=len(questions) * len(STRATEGIES))
            bar.update(task, completed=len(known))
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
                        _work(queue, client, file, deadline, (bar, task))
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
    have = read_records(path)
    return all((normalise(q.text), s) in have for q in questions for s in STRATEGIES)


async def _work(
    queue: list[tuple[Question, Strategy]],
    client: ModelClient,
    file: TextIO,
    deadline: float,
    progress: tuple[Progress, TaskID],
) -> None:
    while queue and time.monotonic() < deadline:
        question, strategy = queue.pop(0)
        asked = normalise(question.text)
        params = AnswerParams(
            max_tokens=MAX_TOKENS,
            temperature=0.0,
            seed=zlib.crc32(asked.encode()) % 2**31,
            stop=STOP,
            confidence=True,
        )
        done = await strategy.answer(
            [{"role": "user", "content": question.text}], client=client, params=params
        )
        record = Record(
            asked=asked,
            strategy=strategy.name,
            text=done.text,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            latency_s=done.latency_s,
            confidence=done.confidence,
            finish_reason=done.finish_reason,
            calls=sum(step.action in {"answer", "expression", "sample"} for step in done.steps),
        )
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        file.flush()
        progress[0].advance(progress[1])
