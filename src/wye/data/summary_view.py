"""A `DataSummary` as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from wye.data.summary import DataSummary

SHOWN_DATASETS = 30


def render(summary: DataSummary) -> Iterator[RenderableType]:
    """Figures of the whole set, then models, datasets and warnings."""
    from rich.markup import escape

    yield f"[bold]{escape(summary.name)}[/]"
    yield _figures(summary)
    yield ""
    yield _models(summary)
    yield ""
    yield _datasets(summary)
    hidden = len(summary.datasets) - SHOWN_DATASETS
    if hidden > 0:
        yield f"... and {hidden} more datasets (all of them with --json)"
    warnings = list(_warnings(summary))
    if warnings:
        yield ""
        yield "[bold]beware[/]"
        yield from (f"  {escape(w)}" for w in warnings)


def _figures(s: DataSummary) -> Table:
    from rich.markup import escape
    from rich.table import Table

    splits = ", ".join(f"{escape(name)} {count:,}" for name, count in s.splits.items())
    best = "no model answered over 90%" if s.best_single is None else escape(s.best_single)
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in (
        ("queries", f"{s.queries:,} ({splits})"),
        (
            "outcomes",
            f"{s.outcomes:,} of {s.queries * len(s.models):,} pairs ({_share(s.density)})",
        ),
        ("cost known", _share(s.cost_known)),
        ("latency known", _share(s.latency_known)),
        ("best single model", f"{_number(s.best_single_quality)}  {best}"),
        ("best model per dataset", _number(s.best_per_dataset)),
        ("oracle", _number(s.oracle)),
        ("no model right", _share(s.none_right)),
        ("models differ", f"{_share(s.contested)} of queries"),
        ("duplicate questions", f"{s.duplicates:,} ({s.across_splits:,} stand in several splits)"),
    ):
        table.add_row(label, value)
    return table


def _models(s: DataSummary) -> Table:
    from rich.markup import escape
    from rich.table import Table

    headers = ("answered", "quality", "ahead", "best on", "USD/1000", "cost known", "seconds")
    table = Table("model", *headers, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for m in s.models:
        error = "" if math.isnan(m.quality_error) else f" ± {1.96 * m.quality_error:.3f}"
        table.add_row(
            escape(m.model),
            f"{m.answered:,} ({_share(m.coverage)})",
            _number(m.quality) + error,
            f"{m.ahead:+.3f}" if not math.isnan(m.ahead) else "",
            str(m.best_on),
            _number(1000 * m.cost_usd),
            _share(m.cost_known),
            _number(m.latency_s),
        )
    return table


def _datasets(s: DataSummary) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("dataset", "queries", "quality", "oracle", "best model", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for d in s.datasets[:SHOWN_DATASETS]:
        table.add_row(
            escape(d.dataset),
            f"{d.queries:,}",
            _number(d.best_quality),
            _number(d.oracle),
            escape(d.best_model or ""),
        )
    return table


def _warnings(s: DataSummary) -> Iterator[str]:
    yield from (artefact.describe() for artefact in s.artefacts)
    if s.across_splits:
        yield (
            f"{s.across_splits} questions stand in more than one split: figures on them are "
            "memory; `wye data split` puts every question on one side"
        )
    partial = [m for m in s.models if m.coverage <= 0.9]
    if partial:
        yield (
            f"{len(partial)} models answered 90% of the queries or less: their quality is over "
            "other questions and not comparable (column `ahead` compares on the same queries)"
        )
    if s.cost_known < 1:
        yield "costs are not known everywhere: what a budget saves is only known where they are"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}" if value >= 1 else f"{value:.4f}"
