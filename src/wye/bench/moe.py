"""Every router of the expert scale on the same text, sizes and seeds: loss, balance, fan-out, time.

Systems whose routing is causal predict the next byte. Those that see the future fill in masked
bytes instead (`wye.moe.learning.masked_diffusion`), beside plain top-k on the same task: losses
compare within a task alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.checks.moe.corpus import Corpus
    from wye.checks.moe.experiment import Arm
    from wye.moe.build import Shape

Task = Literal["next byte", "masked bytes"]
TASKS: tuple[Task, ...] = ("next byte", "masked bytes")
BASELINE = "top_k"
NONE = "–"
_HELD_OUT = 0.1


class BenchError(WyeError):
    """A benchmark that cannot run as asked; the message says what to do."""


@dataclass(frozen=True)
class Measure:
    """One column of the comparison.

    Attributes:
        key: of the figures.
        title: as shown.
        digits: after the point.
    """

    key: str
    title: str
    digits: int


MEASURES = (
    Measure("loss", "held-out loss, nats", 3),
    Measure("max_violation", "MaxVio, worst layer", 2),
    Measure("fan_out", "experts per token", 2),
    Measure("milliseconds", "milliseconds per step", 1),
)


@dataclass(frozen=True)
class Row:
    """One system on one task.

    Attributes:
        system: its name.
        task: what it was trained on.
        figures: one value per seed under the keys of `MEASURES`; NaN where a system has none, as
            Soft MoE has no loads.
    """

    system: str
    task: Task
    figures: Mapping[str, tuple[float, ...]]

    def mean(self, key: str) -> float:
        """Over the seeds."""
        return float(np.mean(self.figures[key]))


@dataclass(frozen=True)
class MoEBench:
    """What `bench_moe` measured.

    Attributes:
        rows: by task, lowest loss first.
        left_out: system -> why it cannot take part.
        text: name of the text.
        steps, seeds: of every run.
        shape: sizes in words.
    """

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    text: str
    steps: int
    seeds: tuple[int, ...]
    shape: str

    @property
    def title(self) -> str:
        """What was compared on what."""
        return f"Routers of experts on {self.text} text: {self.steps} steps, {self.shape}"

    def of(self, task: Task) -> tuple[Row, ...]:
        """The rows of a task."""
        return tuple(row for row in self.rows if row.task == task)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "text": self.text,
            "steps": self.steps,
            "seeds": list(self.seeds),
            "shape": self.shape,
            "rows": [
                {
                    "system": row.system,
                    "task": row.task,
                    **{
                        key: [v if math.isfinite(v) else None for v in values]
                        for key, values in row.figures.items()
                    },
                }
                for row in self.rows
            ],
            "left_out": dict(self.left_out),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        for task in TASKS:
            rows = self.of(task)
            if not rows:
                continue
            table = Table(title=f"{task}, {self.steps} steps on {escape(self.text)}")
            table.add_column("system", no_wrap=True)
            for measure in MEASURES:
                table.add_column(measure.title, justify="right")
            for row in rows:
                table.add_row(escape(row.system), *cells(row))
            yield table
        for system, reason in self.left_out.items():
            yield f"[dim]left out: {escape(system)}: {escape(reason)}[/]"


def cells(row: Row) -> list[str]:
    """The means of a row as shown, with the spread over the seeds where there is one."""
    shown = []
    for measure in MEASURES:
        values = row.figures[measure.key]
        if not math.isfinite(row.mean(measure.key)):
            shown.append(NONE)
            continue
        mean = f"{np.mean(values):.{measure.digits}f}"
        spread = f" ±{np.std(values, ddof=1):.{measure.digits}f}" if len(values) > 1 else ""
        shown.append(mean + spread)
    return shown


def bench_moe(
    systems: Sequence[str] | None = None,
    *,
    text: Corpus | None = None,
    steps: int = 100,
    seeds: Sequence[int] = (0,),
    shape: Shape | None = None,
    batch: int = 16,
    length: int = 64,
    processes: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> MoEBench:
    """Train every system, or those named, and measure them on held-out text.

    Args:
        systems: names of `wye.moe.system_names()`; all that can take part when not given.
        text: trained on one part, measured on the other; 3 MB of Python source when not given.
        steps: optimiser steps of every run.
        seeds: of every system.
        shape: sizes; 3 layers, width 64, 8 experts of width 48, top 2 when not given.
        batch, length: of the batches.
        processes: as in `wye.checks.moe.trials.run_trials`.
        progress: is told what runs.

    Raises:
        BenchError: steps below 1, no seeds, or no system that can take part.
        MoEError: a named system that is unknown or cannot take part.
    """
    from wye.checks.base import CheckContext
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.experiment import SHAPE, run_arms
    from wye.moe.registry import system_names

    if steps < 1 or not seeds:
        raise BenchError(f"steps={steps} and seeds={list(seeds)}, expected at least one of each")
    shape = shape or SHAPE
    text = text or corpus("python", 3_000_000)
    arms, left_out = _arms(systems or system_names(), shape, named=bool(systems))
    if not arms:
        raise BenchError(f"none of {list(left_out)} can take part: {left_out}")
    results = run_arms(
        {f"{system}, {task}": arm for (system, task), arm in arms.items()},
        CheckContext(data=None, seeds=tuple(seeds), progress=progress),  # type: ignore[arg-type]
        text=text,
        shape=shape,
        steps=steps,
        batch=batch,
        length=length,
        processes=processes,
    )
    rows = []
    for system, task in arms:
        trials = results.of(f"{system}, {task}")
        figures = {
            m.key: tuple(t.figures.get(m.key, math.nan) for t in trials)
            for m in MEASURES
            if m.key != "milliseconds"
        }
        figures["milliseconds"] = tuple(1e3 * t.figures["seconds_per_step"] for t in trials)
        rows.append(Row(system, task, figures))
    rows.sort(key=lambda row: (TASKS.index(row.task), row.mean("loss"), row.system))
    sizes = (
        f"{shape.n_layers} layers, width {shape.width}, {shape.n_experts} experts of width "
        f"{shape.hidden}, top {shape.k} where fixed"
    )
    return MoEBench(tuple(rows), left_out, text.name, steps, tuple(seeds), sizes)


def read_text(path: str | Path) -> Corpus:
    """A file of one's own as a text: its last tenth is held out.

    Raises:
        BenchError: no such file, or fewer than 10,000 bytes.
    """
    from wye.checks.moe.corpus import Corpus

    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    if len(content) < 10_000:
        raise BenchError(f"{path} has {len(content)} bytes, expected 10,000 or more of text")
    cut = len(content) - int(_HELD_OUT * len(content))
    return Corpus(path.name, content[:cut], content[cut:])


def _arms(
    systems: Sequence[str], shape: Shape, *, named: bool
) -> tuple[dict[tuple[str, Task], Arm], dict[str, str]]:
    """An arm for every system, by name and task; systems that cannot take part, with the reason."""
    from wye.checks.moe.experiment import Arm
    from wye.moe.base import MoEError
    from wye.moe.learning.masked_diffusion import denoising_loss

    arms: dict[tuple[str, Task], Arm] = {}
    left_out: dict[str, str] = {}

    def masked(system: str) -> Arm:
        return Arm(system, objective=denoising_loss, vocabulary=257, causal=False)

    for system in systems:
        try:
            task = _task(system, shape)
        except MoEError as error:
            if named:
                raise
            left_out[system] = str(error)
            continue
        arms[system, task] = Arm(system) if task == "next byte" else masked(system)
    if any(task == "masked bytes" for _, task in arms):
        arms[BASELINE, "masked bytes"] = masked(BASELINE)
    return arms, left_out


def _task(system: str, shape: Shape) -> Task:
    """What a system can be trained on, found out with one small batch.

    Raises:
        MoEError: it needs something that text does not have, or declares no contracts.
    """
    import torch

    from wye.moe.base import Contracts, MoEError
    from wye.moe.models.language_model import LanguageModel

    with torch.random.fork_rng(devices=[]):
        model = LanguageModel.build(system, shape, length=8, vocabulary=257)
        found = (getattr(module, "contracts", None) for module in model.modules())
        declared = [contracts for contracts in found if isinstance(contracts, Contracts)]
        if not declared:
            raise MoEError("its layers declare no contracts, so that they may see later tokens")
        model(torch.zeros(2, 8, dtype=torch.int64), mask_ratio=torch.full((2,), 0.5))
    return "next byte" if all(contracts.causal for contracts in declared) else "masked bytes"
