"""The frontier as a matplotlib figure: drawn with objects, so nothing global is touched."""

from __future__ import annotations

import math
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wye.bench.labels import Box, path_obstacles, place_labels
from wye.bench.view import (
    BEST_COLOUR,
    MIX_COLOUR,
    ORACLE_COLOUR,
    ROUTER_COLOURS,
    SINGLE_COLOUR,
    FrontierView,
    cost_label,
    cost_ticks,
    frontier_view,
    quality_ticks,
)

if TYPE_CHECKING:
    from wye.bench.view import Dot
    from wye.query.report import Report

_SIZE = (10.0, 6.4)
_DPI = 144
_GRID = "#e5e7eb"
_INK = "#111827"
_SOFT = "#6b7280"
_MARKERS = {
    "single": ("o", SINGLE_COLOUR, 26.0),
    "best": ("o", BEST_COLOUR, 52.0),
    "router": ("D", ROUTER_COLOURS[0], 46.0),
    "per dataset": ("P", ORACLE_COLOUR, 52.0),
    "oracle": ("*", ORACLE_COLOUR, 130.0),
}


def draw(report: Report) -> Any:
    """A matplotlib `Figure` of the report: its frontier, or a row of qualities without costs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.15, 0.89, 0.70))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9ca3af")
    axes.tick_params(colors=_SOFT, labelsize=9)
    if report.oracle.cost.known:
        _draw_frontier(figure, axes, frontier_view(report))
    else:
        _draw_qualities(axes, report)
        _head(
            figure,
            f"{report.data_name}: quality, {report.n_compared} queries (the set has no costs)",
            report.verdict,
        )
    return figure


def _draw_frontier(figure: Any, axes: Any, view: FrontierView) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*view.costs)
    axes.set_ylim(*view.qualities)
    ticks = cost_ticks(*view.costs)
    axes.set_xticks(ticks, [cost_label(t) for t in ticks])
    axes.minorticks_off()
    quality = quality_ticks(*view.qualities)
    axes.set_yticks(quality, [f"{t:g}" for t in quality])
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("mean cost per 1000 queries, USD (logarithmic)", color=_SOFT, fontsize=9.5)
    axes.set_ylabel("mean quality", color=_SOFT, fontsize=9.5)
    mix = mixture_path(view.mix)
    axes.plot(
        [c for c, _ in mix],
        [q for _, q in mix],
        color=MIX_COLOUR,
        linewidth=1.6,
        linestyle=(0, (5, 3)),
        label="cheapest mix of single models (no router)",
        zorder=2,
    )
    for line in view.lines:
        axes.fill_between(
            line.cost, line.low, line.high, color=line.colour, alpha=0.13, linewidth=0, zorder=1
        )
        axes.plot(
            line.cost,
            line.quality,
            color=line.colour,
            linewidth=2.4,
            label=f"router: {line.label} ({view.level:.0%} band)",
            zorder=4,
        )
    colours = {line.label: line.colour for line in view.lines}
    for dot in view.dots:
        marker, colour, size = _MARKERS[dot.kind]
        axes.scatter(
            [dot.cost],
            [dot.quality.value],
            marker=marker,
            s=size,
            color=colours.get(dot.label, colour) if dot.kind == "router" else colour,
            edgecolor="white",
            linewidth=0.8,
            zorder=5,
        )
    _legend(figure, axes)
    _label(figure, axes, view)
    _head(figure, view.title, view.verdict)
    if view.outside:
        figure.text(0.97, 0.862, "; ".join(view.outside), ha="right", color=_SOFT, fontsize=8)


def mixture_path(vertices: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Points along a mix: straight in cost, hence bent on a logarithmic axis."""
    path: list[tuple[float, float]] = list(vertices[:1])
    for (c0, q0), (c1, q1) in pairwise(vertices):
        for k in range(1, 25):
            cost = c0 * (c1 / c0) ** (k / 24) if c0 > 0 else c0 + (c1 - c0) * k / 24
            path.append((cost, q0 + (q1 - q0) * (cost - c0) / (c1 - c0) if c1 > c0 else q1))
    return path


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.07, 0.0),
        # Two rows fit below the axis.
        ncols=min(len(labels), 3 if len(labels) <= 6 else 4),
        fontsize=8.5 if len(labels) <= 6 else 7.5,
        frameon=False,
        labelcolor=_SOFT,
    )


def _label(figure: Any, axes: Any, view: FrontierView) -> None:
    renderer = figure.canvas.get_renderer()
    to_pixels = axes.transData.transform
    # Hull vertices and bounds are what a reader looks for, so they choose their places first.
    on_mix = {q for _, q in view.mix}
    order = sorted(view.dots, key=lambda d: (d.kind == "single", d.quality.value not in on_mix))
    texts = [_text(figure, dot) for dot in order]
    sizes = []
    for text in texts:
        extent = text.get_window_extent(renderer)
        sizes.append((extent.width + 4, extent.height + 2))
    anchors = [tuple(to_pixels((d.cost, d.quality.value))) for d in order]
    box = axes.get_window_extent(renderer)
    obstacles: list[Box] = []
    curves = [
        mixture_path(view.mix),
        *(list(zip(v.cost, v.quality, strict=True)) for v in view.lines),
    ]
    for curve in curves:
        obstacles.extend(path_obstacles([tuple(to_pixels(p)) for p in curve]))
    places = place_labels(anchors, sizes, Box(box.x0, box.y0, box.x1 + 20, box.y1), obstacles)
    width, height = figure.canvas.get_width_height()
    for text, place, (x, y) in zip(texts, places, anchors, strict=True):
        if place is None:
            text.remove()
            continue
        cx, cy = (place.box.left + place.box.right) / 2, (place.box.low + place.box.high) / 2
        text.set_position((cx / width, cy / height))
        if place.leader:
            _leader(figure, place.box, x, y, width, height)


def _text(figure: Any, dot: Dot) -> Any:
    bold = dot.kind in ("best", "router")
    return figure.text(
        0.5,
        0.5,
        dot.label,
        fontsize=8.2 if bold else 7.2,
        color=_INK if bold else ORACLE_COLOUR if dot.kind in ("oracle", "per dataset") else _SOFT,
        fontweight="bold" if bold else "normal",
        ha="center",
        va="center",
        zorder=6,
    )


def _leader(figure: Any, box: Box, x: float, y: float, width: float, height: float) -> None:
    from matplotlib.lines import Line2D

    near_x = min(max(x, box.left), box.right)
    near_y = min(max(y, box.low), box.high)
    length = math.hypot(near_x - x, near_y - y)
    if length < 1.0:
        return
    figure.add_artist(
        Line2D(
            [x / width, near_x / width],
            [y / height, near_y / height],
            color="#b6bcc4",
            linewidth=0.6,
            zorder=1,
        )
    )


def _draw_qualities(axes: Any, report: Report) -> None:
    rows: list[tuple[str, Any, str]] = [
        ("oracle (knows the outcome)", report.oracle.quality, ORACLE_COLOUR),
        ("best per dataset", report.best_per_dataset.quality, ORACLE_COLOUR),
        *(
            (f"router: {r.name}", r.quality, ROUTER_COLOURS[k % len(ROUTER_COLOURS)])
            for k, r in enumerate(report.routers.values())
        ),
        *(
            (s.name, s.quality, BEST_COLOUR if s == report.best_single else SINGLE_COLOUR)
            for s in report.singles
        ),
    ]
    rows.sort(key=lambda row: row[1].value)
    for at, (_, quality, colour) in enumerate(rows):
        axes.plot([quality.low, quality.high], [at, at], color=colour, linewidth=2, alpha=0.45)
        axes.scatter([quality.value], [at], color=colour, s=42, zorder=3)
        axes.annotate(
            f"{quality.value:.3f}",
            (max(quality.high, quality.value), at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_SOFT,
        )
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_position((0.30, 0.115, 0.66, 0.735))
    axes.grid(axis="x", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"mean quality with its {report.level:.0%} interval", color=_SOFT, fontsize=9.5)


def _head(figure: Any, title: str, verdict: str) -> None:
    figure.text(0.03, 0.955, title, fontsize=13, fontweight="bold", color=_INK)
    lines = textwrap.wrap(verdict, 150)
    if len(lines) > 2:
        lines = [lines[0], textwrap.shorten(" ".join(lines[1:]), 148, placeholder=" ...")]
    figure.text(0.03, 0.935, "\n".join(lines), fontsize=9, color=_SOFT, va="top")
