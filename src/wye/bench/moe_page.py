"""The comparison of routers on one page: a PNG, or HTML that stands alone.

One row per system, one column per measure: each seed a dot, the mean a bar. The axis of the loss
does not begin at zero, so that differences show; there the bar would say what is not so, and is
left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wye.bench.document import document, table
from wye.bench.moe import MEASURES, NONE, TASKS, BenchError, Measure, MoEBench, Row, cells
from wye.bench.view import ROUTER_COLOURS
from wye.files import write_whole

if TYPE_CHECKING:
    from wye.bench.moe import Task

_NAME, _COLUMN, _LINE, _GAP = 190.0, 195.0, 22.0, 16.0
_HOW = (
    "Losses compare within a task. Milliseconds are the median of a training step on one thread, "
    "with whatever else this machine did. MaxVio is the largest load of an expert over the mean "
    "load less 1, a mean over the steps, of the layer where it is largest."
)


def save(result: MoEBench, folder: str | Path) -> tuple[Path, Path]:
    """Write `moe.png` and `moe.html` into `folder`, which is made; each whole or not at all.

    Raises:
        BenchError: `folder` is a file.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made: {error}") from error
    return (
        write_whole(folder / "moe.png", png(result)),
        write_whole(folder / "moe.html", page(result).encode()),
    )


def page(result: MoEBench) -> str:
    """The page as text; it loads nothing."""
    parts = [f'<p class="note">seeds {", ".join(map(str, result.seeds))}. {escape(_HOW)}</p>']
    for task in _tasks(result):
        rows = result.of(task)
        heads = ["system", *(measure.title for measure in MEASURES)]
        parts += [
            f"<h2>{escape(task)}</h2>",
            f"<figure>{_svg(rows, task)}</figure>",
            table(heads, [[row.system, *cells(row)] for row in rows]),
        ]
    if result.left_out:
        reasons = "".join(f"<li>{escape(s)}: {escape(r)}</li>" for s, r in result.left_out.items())
        parts.append(f'<h2>Left out</h2><ul class="note">{reasons}</ul>')
    return document(result.title, "\n".join(parts))


def png(result: MoEBench) -> bytes:
    """The same bars as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = _tasks(result)
    sizes = [len(result.of(task)) for task in tasks]
    height = 1.3 + 0.9 * len(tasks) + 0.27 * sum(sizes)
    figure = Figure(figsize=(12.0, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(result.title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    grid = figure.subplots(
        len(tasks),
        len(MEASURES),
        squeeze=False,
        sharey="row",
        gridspec_kw={"height_ratios": [n + 2 for n in sizes]},
    )
    for line, task in zip(grid, tasks, strict=True):
        for place, (axes, measure) in enumerate(zip(line, MEASURES, strict=True)):
            _bars(axes, result.of(task), measure, first=place == 0)
        line[0].set_ylabel(task, fontsize=9.5, fontweight="bold")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / height))
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _bars(axes: Any, rows: Sequence[Row], measure: Measure, *, first: bool) -> None:
    low, high = _range(rows, measure)
    places = list(range(len(rows)))[::-1]
    means = [low if math.isnan(row.mean(measure.key)) else row.mean(measure.key) for row in rows]
    colour = _colour(measure)
    ends, faint = (means, 0.35) if low == 0 else ([high] * len(rows), 0.06)
    axes.barh(places, [e - low for e in ends], left=low, color=colour, alpha=faint, height=0.7)
    for place, row in zip(places, rows, strict=True):
        values = row.figures[measure.key]
        axes.scatter(values, [place] * len(values), color=colour, s=14, zorder=3)
        axes.text(
            high, place, f" {_shown(row, measure)}", va="center", fontsize=7.5, color="#6b7280"
        )
    axes.set_xlim(low, high)
    axes.set_title(measure.title, fontsize=9, loc="left", color="#111827")
    axes.set_yticks(places, [row.system for row in rows])
    axes.tick_params(labelsize=8, colors="#6b7280", length=0, labelleft=first)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _svg(rows: Sequence[Row], task: Task) -> str:
    width = _NAME + len(MEASURES) * _COLUMN
    height = 2 * _LINE + len(rows) * _LINE
    parts = [
        f'<text x="{_NAME - 8:.0f}" y="{_middle(place):.1f}" text-anchor="end">'
        f"{escape(row.system)}</text>"
        for place, row in enumerate(rows)
    ]
    for column, measure in enumerate(MEASURES):
        parts.append(_svg_column(rows, measure, _NAME + column * _COLUMN))
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="routers on {escape(task)}">{"".join(parts)}</svg>'
    )


def _svg_column(rows: Sequence[Row], measure: Measure, left: float) -> str:
    low, high = _range(rows, measure)
    room = _COLUMN - 3 * _GAP - 20
    colour = _colour(measure)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * room

    parts = [
        f'<text class="strong" x="{left:.0f}" y="{_LINE * 0.7:.1f}">{escape(measure.title)}</text>'
    ]
    for place, row in enumerate(rows):
        mean, y = row.mean(measure.key), _middle(place) - 4
        beside = f'<text x="{left + room + 6:.1f}" y="{y + 4:.1f}">{_shown(row, measure)}</text>'
        parts.append(beside)
        if math.isnan(mean):
            continue
        said = ", ".join(f"{v:.{measure.digits}f}" for v in row.figures[measure.key])
        tip = escape(f"{row.system}\n{measure.title}: {said}")
        end, faint = (at(mean), 0.35) if low == 0 else (left + room, 0.06)
        parts.append(
            f'<rect x="{left:.1f}" y="{y - 7:.1f}" width="{max(end - left, 1):.1f}" '
            f'height="14" fill="{colour}" fill-opacity="{faint}" tabindex="0" data-tip="{tip}"/>'
        )
        parts.extend(
            f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
            for value in row.figures[measure.key]
        )
    return "".join(parts)


def _shown(row: Row, measure: Measure) -> str:
    mean = row.mean(measure.key)
    return NONE if math.isnan(mean) else f"{mean:.{measure.digits}f}"


def _middle(place: int) -> float:
    return _LINE * (place + 1.7)


def _range(rows: Sequence[Row], measure: Measure) -> tuple[float, float]:
    """What the axis shows: from zero, but for the loss, whose differences would not be seen."""
    values = [v for row in rows for v in row.figures[measure.key] if math.isfinite(v)]
    high = max(values, default=1.0)
    if measure.key != "loss":
        return 0.0, (high or 1.0) * 1.04
    spread = max(high - min(values), 0.02)
    return min(values) - 0.15 * spread, high + 0.05 * spread


def _colour(measure: Measure) -> str:
    return ROUTER_COLOURS[MEASURES.index(measure)]


def _tasks(result: MoEBench) -> list[Task]:
    return [task for task in TASKS if result.of(task)]
