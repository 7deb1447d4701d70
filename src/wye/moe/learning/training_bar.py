"""The progress bar of a training run: loss, balance of the worst layer, tokens per second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from wye.moe.learning.training import Step


@contextmanager
def training_bar(steps: int, console: Console | None = None) -> Iterator[Callable[[Step], None]]:
    """A bar on standard error that the yielded function moves by one step.

    Args:
        steps: of the whole run.
        console: where to draw instead.
    """
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  MaxVio {task.fields[violation]:.2f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or RichConsole(stderr=True)) as bar:
        task = bar.add_task("", total=steps, loss=float("nan"), violation=0.0, speed=0.0)

        def report(step: Step) -> None:
            bar.update(
                task,
                completed=step.number,
                loss=step.loss,
                violation=step.max_violation,
                speed=step.tokens_per_second,
            )

        yield report
