"""The comparison of query routers on one page: HTML that stands alone, JSON, PNG and SVG.

The plot shows the routers that gained most; the tables show all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from wye.bench.document import document, table
from wye.bench.frontier import render
from wye.bench.page import bound_rows, frontier_legend, frontier_svg, single_rows
from wye.bench.query import BenchError
from wye.bench.query_result import DETAILS, HEADS, QueryBench, cells, details
from wye.bench.view import ROUTER_COLOURS, frontier_view
from wye.files import write_whole

if TYPE_CHECKING:
    from wye.query.report import Report


def save(result: QueryBench, folder: str | Path) -> tuple[Path, ...]:
    """Write `query.html`, `.json`, `.png` and `.svg` into `folder`, which is made.

    Everything is drawn before the first file is written, and each is written whole or not at all.

    Raises:
        BenchError: `folder` is a file.
        PlotError: the costs are all zero.
    """
    folder = Path(folder)
    shown = plotted(result)
    files = {
        "query.html": page(result).encode(),
        "query.json": (json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n").encode(),
        "query.png": render(shown, "png"),
        "query.svg": render(shown, "svg"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{folder} cannot be made: {error}") from error
    return tuple(write_whole(folder / name, content) for name, content in files.items())


def plotted(result: QueryBench) -> Report:
    """The report with as many of the best routers as the plot has colours, and the verdict."""
    names = list(result.report.routers)[: len(ROUTER_COLOURS)]
    routers = {name: result.report.routers[name] for name in names}
    return replace(result.report, routers=routers, verdict=result.verdict)


def page(result: QueryBench) -> str:
    """The page as text; it loads nothing."""
    report = result.report
    pays = " pays" if result.verdict.startswith("route with") else ""
    parts = [
        f'<p class="note">{report.n_compared} queries, {len(report.models)} models</p>',
        f'<p class="verdict{pays}">{escape(result.verdict)}</p>',
    ]
    if report.oracle.cost.known:
        view = frontier_view(plotted(result))
        caption = "; ".join(
            [f"bands are {report.level:.0%} intervals", *view.outside, *_not_plotted(result)]
        )
        parts.append(
            f"<figure>{frontier_legend(view)}{frontier_svg(view)}"
            f"<figcaption class='note'>{escape(caption)}</figcaption></figure>"
        )
    parts += [
        "<h2>Routers</h2>",
        table(["router", *HEADS], [[r.router, *cells(r)] for r in result.rows]),
        f'<p class="note">{escape(result.method)}</p>',
    ]
    failed = [f"<li>{escape(r.router)}: {escape(r.error)}</li>" for r in result.rows if r.error]
    if failed:
        parts.append(f"<h2>Failed</h2><ul>{''.join(failed)}</ul>")
    parts += [
        "<h2>All metrics</h2>",
        table(["router", *DETAILS], [[r.router, *details(r)] for r in result.rows]),
        "<h2>Without a router</h2>",
        table(["", "quality", "cost per query"], [*single_rows(report), *bound_rows(report)]),
    ]
    verdicts = "".join(f"<li>{escape(r.verdict)}</li>" for r in report.routers.values())
    parts.append(f"<h2>Each router by itself</h2><ul>{verdicts}</ul>")
    if result.left_out:
        reasons = "".join(
            f"<li>{escape(name)}: {escape(why)}</li>" for name, why in result.left_out.items()
        )
        parts.append(f'<h2>Left out</h2><ul class="note">{reasons}</ul>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    parts.append(f'<h2>How it was compared</h2><ul class="note">{notes}</ul>')
    return document(result.title, "\n".join(parts))


def _not_plotted(result: QueryBench) -> list[str]:
    rest = list(result.report.routers)[len(ROUTER_COLOURS) :]
    return [f"not drawn: {', '.join(rest)}"] if rest else []
