"""The frontier as one HTML page: inline SVG, tables, verdict; it loads nothing from anywhere."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from wye.bench.document import document, table
from wye.bench.figure import mixture_path
from wye.bench.labels import Box, path_obstacles, place_labels
from wye.bench.view import (
    MIX_COLOUR,
    ORACLE_COLOUR,
    ROUTER_COLOURS,
    Dot,
    FrontierView,
    cost_label,
    cost_ticks,
    frontier_view,
    quality_ticks,
)
from wye.query.report.screen import NONE, detail_rows, money, with_interval
from wye.query.report.types import SHARES

if TYPE_CHECKING:
    from wye.query.report import Report

_WIDTH, _HEIGHT = 1000.0, 560.0
_AREA = Box(64.0, 16.0, 984.0, 512.0)
_LETTER = 6.7


def page(report: Report) -> str:
    """The whole page as text."""
    title = f"{report.data_name}: does routing pay?"
    verdicts = "\n".join(
        f'<p class="verdict{" pays" if r.pays else ""}">{escape(r.verdict)}</p>'
        for r in report.routers.values()
    )
    plot = ""
    if report.oracle.cost.known:
        view = frontier_view(report)
        caption = "; ".join(view.outside)
        plot = (
            f"<figure>{frontier_legend(view)}{frontier_svg(view)}<figcaption class='note'>"
            f"Bands and brackets are {report.level:.0%} bootstrap intervals. "
            f"{escape(caption)}</figcaption></figure>"
        )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return document(
        title,
        f"""<p class="note">{report.n_compared} queries, {len(report.models)} models,
{report.n_draws} bootstrap draws, seed {report.seed}</p>
{verdicts}
{plot}
{_tables(report)}
<h2>How it was compared</h2>
<ul class="note">{notes}</ul>""",
    )


def single_rows(report: Report) -> list[list[str]]:
    """Name, quality and cost of each single model."""
    return [
        [
            s.name + (" (best single model)" if s == report.best_single else ""),
            with_interval(s.quality),
            money(s.cost),
        ]
        for s in report.singles
    ]


def bound_rows(report: Report) -> list[list[str]]:
    """Name, quality and cost of what no router reaches: it would have to know the answers."""
    return [
        [
            "best per dataset (knows the dataset)",
            with_interval(report.best_per_dataset.quality),
            money(report.best_per_dataset.cost),
        ],
        [
            "oracle (knows the outcome)",
            with_interval(report.oracle.quality),
            money(report.oracle.cost),
        ],
    ]


def _tables(report: Report) -> str:
    routers = list(report.routers.values())
    ways = [
        *([f"router: {r.name}", with_interval(r.quality), money(r.cost)] for r in routers),
        *bound_rows(report),
        *single_rows(report),
    ]
    parts = ["<h2>Ways to answer</h2>", table(["", "quality", "cost per query"], ways)]
    if report.oracle.cost.known:
        budgets = [
            [
                f"cheapest mix of {len(report.mix)} single models",
                *(with_interval(report.mix_at_budget[s]) for s in SHARES),
                with_interval(report.mix_aiq),
            ]
        ]
        for r in routers:
            budgets.append(
                [
                    f"router: {r.name}",
                    *(with_interval(r.at_budget[s]) for s in SHARES),
                    with_interval(r.aiq),
                ]
            )
            budgets.append(
                [
                    "gain over the mix",
                    *(with_interval(r.gain[s], signed=True) for s in SHARES),
                    NONE,
                ]
            )
        heads = ["", *(f"{float(s):.0%}" for s in SHARES), "AIQ"]
        parts += [
            "<h2>Quality at a share of the best single model's cost</h2>",
            table(heads, budgets),
        ]
    details = [[label, *cells] for label, cells in detail_rows(routers)]
    parts += ["<h2>Routers</h2>", table(["", *(r.name for r in routers)], details)]
    return "\n".join(parts)


class _Scale:
    def __init__(self, view: FrontierView) -> None:
        self._cost = tuple(math.log(c) for c in view.costs)
        self._quality = view.qualities

    def __call__(self, cost: float, quality: float) -> tuple[float, float]:
        low, high = self._cost
        x = _AREA.left + (math.log(cost) - low) / (high - low) * (_AREA.right - _AREA.left)
        bottom, top = self._quality
        y = _AREA.high - (quality - bottom) / (top - bottom) * (_AREA.high - _AREA.low)
        return x, y


def frontier_svg(view: FrontierView) -> str:
    """The plot as inline SVG."""
    scale = _Scale(view)
    parts = [_axes(view, scale), _curves(view, scale), _labels(view, scale)]
    parts.extend(
        _mark(dot, view, scale) for dot in sorted(view.dots, key=lambda d: d.kind != "single")
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{escape(view.title)}">{"".join(parts)}</svg>'
    )


def frontier_legend(view: FrontierView) -> str:
    """What its lines are, as HTML."""
    entries = [
        *((f"router: {line.label}", line.colour, "solid") for line in view.lines),
        ("cheapest mix of single models (no router)", MIX_COLOUR, "dashed"),
    ]
    return '<p class="legend">{}</p>'.format(
        "".join(
            f'<span><i style="border-top: 3px {style} {colour}"></i>{escape(label)}</span>'
            for label, colour, style in entries
        )
    )


def _axes(view: FrontierView, scale: _Scale) -> str:
    parts = []
    for cost in cost_ticks(*view.costs):
        x, _ = scale(cost, view.qualities[0])
        parts.append(
            f'<path d="M{x:.1f} {_AREA.low}V{_AREA.high}" stroke="var(--line)"/>'
            f'<text x="{x:.1f}" y="{_AREA.high + 18}" text-anchor="middle">'
            f"{cost_label(cost)}</text>"
        )
    for quality in quality_ticks(*view.qualities):
        _, y = scale(view.costs[0], quality)
        parts.append(
            f'<path d="M{_AREA.left} {y:.1f}H{_AREA.right}" stroke="var(--line)"/>'
            f'<text x="{_AREA.left - 8}" y="{y + 4:.1f}" text-anchor="end">{quality:g}</text>'
        )
    middle = (_AREA.left + _AREA.right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "mean cost per 1000 queries, USD (logarithmic)</text>"
        f'<text transform="translate(16 {(_AREA.low + _AREA.high) / 2}) rotate(-90)" '
        'text-anchor="middle">mean quality</text>'
    )
    return "".join(parts)


def _curves(view: FrontierView, scale: _Scale) -> str:
    parts = []
    for line in view.lines:
        upper = [scale(c, q) for c, q in zip(line.cost, line.high, strict=True)]
        lower = [scale(c, q) for c, q in zip(line.cost, line.low, strict=True)]
        parts.append(
            f'<path d="{_path(upper + lower[::-1])}Z" fill="{line.colour}" opacity=".14"/>'
        )
    mix = _path([scale(c, q) for c, q in mixture_path(view.mix)])
    parts.append(
        f'<path d="{mix}" fill="none" stroke="{MIX_COLOUR}" stroke-width="2" '
        'stroke-dasharray="7 4"/>'
    )
    for line in view.lines:
        middle = [scale(c, q) for c, q in zip(line.cost, line.quality, strict=True)]
        parts.append(
            f'<path d="{_path(middle)}" fill="none" stroke="{line.colour}" stroke-width="3"/>'
        )
        rows = zip(middle, line.cost, line.quality, line.low, line.high, strict=True)
        for (x, y), cost, quality, low, high in rows:
            tip = (
                f"router: {line.label}\nquality {quality:.3f} [{low:.3f}, {high:.3f}]\n"
                f"{_per_thousand(cost)}"
            )
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{line.colour}" fill-opacity="0" '
                f'data-tip="{escape(tip)}"/>'
            )
    return "".join(parts)


def _labels(view: FrontierView, scale: _Scale) -> str:
    on_mix = {q for _, q in view.mix}
    order = sorted(view.dots, key=lambda d: (d.kind == "single", d.quality.value not in on_mix))
    anchors = [scale(d.cost, d.quality.value) for d in order]
    sizes = [(len(d.label) * (_LETTER + (d.kind in ("best", "router"))) + 6, 14.0) for d in order]
    obstacles: list[Box] = []
    curves = [
        mixture_path(view.mix),
        *(list(zip(v.cost, v.quality, strict=True)) for v in view.lines),
    ]
    for curve in curves:
        obstacles.extend(path_obstacles([scale(*p) for p in curve]))
    parts = []
    places = place_labels(anchors, sizes, _AREA, obstacles)
    for dot, place, (x, y) in zip(order, places, anchors, strict=True):
        if place is None:
            continue
        box = place.box
        if place.leader:
            near = (min(max(x, box.left), box.right), min(max(y, box.low), box.high))
            parts.append(
                f'<path d="{_path([(x, y), near])}" stroke="{MIX_COLOUR}" stroke-width=".7"/>'
            )
        strong = ' class="strong"' if dot.kind in ("best", "router") else ""
        parts.append(
            f'<text x="{(box.left + box.right) / 2:.1f}" y="{box.high - 3:.1f}" '
            f'text-anchor="middle"{strong}>{escape(dot.label)}</text>'
        )
    return "".join(parts)


def _mark(dot: Dot, view: FrontierView, scale: _Scale) -> str:
    x, y = scale(dot.cost, dot.quality.value)
    low, high = dot.quality.low, dot.quality.high
    bracket = f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) and math.isfinite(high) else ""
    tip = f"{dot.label}\nquality {dot.quality.value:.3f}{bracket}\n{_per_thousand(dot.cost)}"
    colours = {line.label: line.colour for line in view.lines}
    colour = {
        "single": "var(--single)",
        "best": "var(--best)",
        "router": colours.get(dot.label, ROUTER_COLOURS[0]),
    }.get(dot.kind, ORACLE_COLOUR)
    common = f'fill="{colour}" tabindex="0" data-tip="{escape(tip)}"'
    if dot.kind == "oracle":
        return f'<path d="{_star(x, y, 9)}" {common}/>'
    if dot.kind == "router":
        return f'<path d="M{x:.1f} {y - 7:.1f}l7 7-7 7-7-7z" {common}/>'
    radius = {"single": 4.5, "best": 6.5}.get(dot.kind, 5.0)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {common}/>'


def _star(x: float, y: float, radius: float) -> str:
    points = []
    for k in range(10):
        r = radius if k % 2 == 0 else radius * 0.45
        angle = math.pi * (k / 5 - 0.5)
        points.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    return _path(points) + "Z"


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _per_thousand(cost: float) -> str:
    return f"${cost:.4g} per 1000 queries"
