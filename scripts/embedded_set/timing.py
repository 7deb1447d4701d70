"""How long an answer takes: a sample asked again, one answer at a time, the strategies in turn.

The long run has many answers under way at once and takes hours, so that its own seconds say more
about the moment than about the strategy. Here every strategy is timed under the same conditions:
neighbours in time, alone in the server, with the fixed part of its prompt in the cache.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedded_set.question import Question
from embedded_set.run import ask
from wye.gateway.pool import STRATEGIES, EmbeddedModel

_APART = 7


@dataclass(frozen=True)
class Speed:
    """Seconds of an answer as `start + per_token * output_tokens`, and the fit's median error."""

    start: float
    per_token: float
    median_error: float
    answers: int

    def seconds(self, output_tokens: int) -> float:
        """Expected seconds of an answer of that many output tokens over all calls."""
        return self.start + self.per_token * output_tokens


def read_speeds(path: Path) -> dict[str, Speed]:
    """The speeds on record, by strategy; none where no file is."""
    if not path.exists():
        return {}
    return {name: Speed(**s) for name, s in json.loads(path.read_text("utf-8")).items()}


async def measure(questions: Sequence[Question], path: Path) -> dict[str, Speed]:
    """Time every strategy on every question and write the fitted speeds to `path`.

    Slope and start by Theil and Sen (medians), since a busy machine gives outliers.
    """
    taken: dict[str, list[tuple[int, float]]] = {name: [] for name in STRATEGIES}
    columns = (TextColumn("timing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with (
        EmbeddedModel(slots=len(STRATEGIES) + 2, context=1024, threads=1) as model,
        model.client(timeout_s=600) as client,
    ):
        with Progress(*columns) as bar:
            for turn in bar.track(range(len(questions))):
                for place, (name, strategy) in enumerate(STRATEGIES.items()):
                    # Neighbours ask different questions: none finds its prompt read by another.
                    question = questions[(turn + _APART * place) % len(questions)]
                    done = await ask(question, strategy, client)
                    taken[name].append((done.output_tokens, done.latency_s))
    speeds = {name: _fit(pairs) for name, pairs in taken.items()}
    part = path.with_suffix(".part")
    part.write_text(json.dumps({n: asdict(s) for n, s in speeds.items()}, indent=1), "utf-8")
    os.replace(part, path)
    return speeds


def _fit(pairs: Sequence[tuple[int, float]]) -> Speed:
    tokens, seconds = (np.array(column, float) for column in zip(*pairs, strict=True))
    i, j = np.triu_indices(len(tokens), 1)
    apart = tokens[i] != tokens[j]
    slopes = (seconds[i] - seconds[j])[apart] / (tokens[i] - tokens[j])[apart]
    slope = max(0.0, float(np.median(slopes))) if slopes.size else 0.0
    start = max(0.0, float(np.median(seconds - slope * tokens)))
    error = float(np.median(np.abs(seconds - start - slope * tokens)))
    return Speed(start, slope, error, len(tokens))


def described(speeds: Mapping[str, Speed]) -> str:
    """Where the seconds of the set come from, in words."""
    if not speeds:
        return "not measured"
    answers = next(iter(speeds.values())).answers
    error = statistics.median(s.median_error for s in speeds.values())
    fits = "; ".join(f"{n} {s.start:.2f} + {s.per_token:.3f}" for n, s in speeds.items())
    return (
        f"start + seconds per output token, fitted (Theil-Sen) for each strategy on {answers} "
        f"answers timed one at a time, the strategies in turn, one thread (median error "
        f"{error:.2f} s): {fits}"
    )


def run_measure(questions: Sequence[Question], path: Path) -> dict[str, Speed]:
    """The speeds on record at `path`, measured first where there are none."""
    return read_speeds(path) or asyncio.run(measure(questions, path))
