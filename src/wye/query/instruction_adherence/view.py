"""A run of probes as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wye.query.instruction_adherence.probe import CATEGORIES
from wye.query.instruction_adherence.table import PUBLISHED, CapabilityTable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wye.query.instruction_adherence.change import CategoryDrift
    from wye.query.instruction_adherence.probing import ProbeRun


def told(run: ProbeRun, table: CapabilityTable, drifts: Sequence[CategoryDrift]) -> dict[str, Any]:
    """A run, its table and its drift, JSON-serialisable."""
    low, high = table.interval()
    return {
        "run": run.to_dict(),
        "prior": table.prior,
        "capabilities": {
            c: {
                "passes": run.counts(c)[0],
                "lenient": run.counts(c, lenient=True)[0],
                "trials": run.counts(c)[1],
                "mean": float(table.means[0, k]),
                "low": float(low[0, k]),
                "high": float(high[0, k]),
            }
            for k, c in enumerate(CATEGORIES)
        },
        "drift": [
            {"category": d.category, "before": d.before, "after": d.after, "p": d.p,
             "flagged": d.flagged}
            for d in drifts
        ],
    }  # fmt: skip


def as_screen(
    run: ProbeRun, table: CapabilityTable, drifts: Sequence[CategoryDrift]
) -> RenderableType:
    """The same for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    low, high = table.interval()
    changed = {d.category: d for d in drifts}
    grid = Table(title=f"{run.model}: {len(run.results)} probes, seed {run.seed}", title_style="")
    grid.add_column("skill")
    for column in ("strict", "lenient", "expected", "95% interval", "256 models"):
        grid.add_column(column, justify="right")
    if drifts:
        grid.add_column("before", justify="right")
        grid.add_column("p", justify="right")
    for k, category in enumerate(CATEGORIES):
        passed, trials = run.counts(category)
        cells = [
            category.replace("_", " "),
            f"{passed}/{trials}",
            f"{run.counts(category, lenient=True)[0]}/{trials}",
            f"{table.means[0, k]:.2f}",
            f"{low[0, k]:.2f} to {high[0, k]:.2f}",
            f"{PUBLISHED[category]:.2f}",
        ]
        if drift := changed.get(category):
            mark = " changed" if drift.flagged else ""
            cells += [f"{drift.before[0]}/{drift.before[1]}", f"{drift.p:.3f}{mark}"]
        grid.add_row(*cells)
    failed = Table(title="broken probes", title_style="")
    for column in ("probe", "why", "answer"):
        failed.add_column(column, overflow="fold")
    for result in run.results:
        if not result.strict:
            why = result.reason + (" (passes leniently)" if result.lenient else "")
            failed.add_row(result.name, Text(why), Text(_visible(result.answer)))
    said = (
        f"answered by {', '.join(run.served)}; expected: with the {table.prior} prior; 256 models: "
        "mean rates of arXiv 2510.18892"
    )
    parts: list[RenderableType] = [grid, Text(said)]
    return Group(*parts, failed) if failed.row_count else Group(*parts)


def _visible(answer: str) -> str:
    shown = answer if len(answer) <= 80 else answer[:77] + "..."
    # Control characters of a model's answer must not reach the terminal.
    return "".join(c if c.isprintable() else "\\n" if c == "\n" else "?" for c in shown)
