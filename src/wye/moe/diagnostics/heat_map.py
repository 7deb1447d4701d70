"""The load of every expert in every layer as a picture: PNG, SVG, or a page that stands alone.

The colour is the load over the mean load of its layer: 1 is balance, 0 a dead expert.
"""

from __future__ import annotations

from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.moe.base import MoEError
from wye.moe.diagnostics.report import Report

SUFFIXES = (".png", ".svg", ".html")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem;
  color: #111827; background: #fff }
h1 { font-size: 1.3rem } svg { width: 100%; height: auto } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px } th, td { text-align: right;
  padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e5e7eb;
  font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } .note { color: #6b7280; font-size: 14px }
"""
_COLUMNS = ("tokens", "fan_out", "max_violation", "variation", "entropy", "dead", "unrouted")


def relative_load(report: Report) -> NDArray[np.float64]:
    """`[layers, E]` load over the mean load of the layer; NaN beyond the experts of a layer."""
    width = max(layer.load.shape[0] for layer in report.layers)
    table = np.full((len(report.layers), width), np.nan)
    for row, layer in zip(table, report.layers, strict=True):
        mean = layer.load.mean()
        row[: layer.load.shape[0]] = layer.load / mean if mean > 0 else 0.0
    return table


def heat_map(report: Report) -> Any:
    """A matplotlib `Figure` of `relative_load`, layers downwards, experts to the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = relative_load(report)
    layers, experts = table.shape
    size = (min(2.6 + 0.34 * experts, 16.0), min(1.7 + 0.34 * layers, 14.0))
    figure = Figure(figsize=size, dpi=144, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = max(2.0, float(np.nanmax(table)))
    image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=0.0, vmax=highest)
    axes.set_yticks(range(layers), [layer.name or "model" for layer in report.layers], fontsize=8)
    axes.set_xticks(range(0, experts, max(1, experts // 16)))
    axes.tick_params(labelsize=8)
    axes.set_xlabel("expert", fontsize=9)
    if layers * experts <= 400:
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                ink = "white" if value < 0.6 * highest else "black"
                axes.text(
                    column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color=ink
                )
    figure.colorbar(image, ax=axes).set_label("load / mean load of the layer", fontsize=8)
    axes.set_title(report.source, fontsize=10, loc="left")
    return figure


def save_heat_map(report: Report, path: str | Path) -> Path:
    """Draw to `path`, whole or not at all; the suffix decides: .png, .svg or .html.

    The page holds the picture as inline SVG and the table, and loads nothing.

    Raises:
        MoEError: another suffix, or a folder that does not exist.
    """
    target = Path(path)
    form = target.suffix.lower()
    if form not in SUFFIXES:
        raise MoEError(f"{target}: cannot draw {target.suffix!r}, expected one of {SUFFIXES}")
    if not target.parent.is_dir():
        raise MoEError(f"{target}: the folder {target.parent} does not exist; make it first")
    content = _page(report).encode() if form == ".html" else _picture(report, form[1:])
    temporary = target.with_name(target.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _picture(report: Report, form: str) -> bytes:
    stream = BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    heat_map(report).savefig(stream, format=form, metadata=metadata)
    return stream.getvalue()


def _page(report: Report) -> str:
    picture = _picture(report, "svg").decode()
    page = StringIO()
    page.write(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(report.source)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(report.source)}</h1>\n"
        f"<figure>{picture[picture.index('<svg') :]}</figure>\n"
        '<p class="note">Colour: load over the mean load of the layer. Dead: experts with less '
        'than a quarter of the mean.</p>\n<div class="scroll"><table>\n<tr><th>layer</th>'
    )
    page.writelines(f"<th>{name.replace('_', ' ')}</th>" for name in _COLUMNS)
    page.write("</tr>\n")
    for layer in report.layers:
        page.write(f"<tr><td>{escape(layer.name or 'model')}</td>")
        row = layer.to_dict()
        page.writelines(f"<td>{_cell(row[name])}</td>" for name in _COLUMNS)
        page.write("</tr>\n")
    page.write("</table></div>\n</body>\n</html>\n")
    return page.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
