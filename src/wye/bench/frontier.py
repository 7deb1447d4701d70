"""The frontier plot of a report: a picture for a document, or a page that stands alone."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from wye.bench.view import PlotError
from wye.files import write_whole

if TYPE_CHECKING:
    from wye.query.report import Report

SUFFIXES = (".png", ".svg", ".html")


def save(report: Report, path: str | Path) -> Path:
    """Draw `report` to `path`, whole or not at all; the suffix decides: .png, .svg or .html.

    The page holds everything itself: the plot as inline SVG with figures under the pointer, the
    tables and the verdict. It loads nothing.

    Raises:
        PlotError: another suffix, a folder that does not exist, or costs that are all zero.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise PlotError(f"{target}: cannot draw {target.suffix!r}, expected one of {SUFFIXES}")
    if not target.parent.is_dir():
        raise PlotError(f"{target}: the folder {target.parent} does not exist; make it first")
    return write_whole(target, render(report, target.suffix.lower().removeprefix(".")))


def render(report: Report, form: str) -> bytes:
    """The plot as bytes: `form` is "png", "svg" or "html".

    Raises:
        PlotError: another form.
    """
    if form == "html":
        from wye.bench.page import page

        return page(report).encode()
    if form not in ("png", "svg"):
        raise PlotError(f"form={form!r}, expected 'png', 'svg' or 'html'")
    from wye.bench.figure import draw

    stream = BytesIO()
    figure = draw(report)
    figure.savefig(stream, format=form, metadata={"Date": None} if form == "svg" else None)
    return stream.getvalue()
