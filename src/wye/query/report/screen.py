"""The honest report on a screen, for a rich console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wye.query.report.types import SHARES, Priced, Report, RouterResult
from wye.query.wording import counted, usd

if TYPE_CHECKING:
    from rich.table import Table

    from wye.query.metrics.resample import Figure


def screen(report: Report) -> Any:
    """Tables and the verdict, as a rich renderable."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_ways(report)]
    if report.oracle.cost.known:
        parts.append(_budgets(report))
    parts.append(_details(report))
    parts.extend(Text(note, style="dim") for note in report.notes)
    for result in report.routers.values():
        style = "bold green" if result.pays else "bold yellow"
        parts.append(Text(f"Verdict: {result.verdict}", style=style))
    return Group(*parts)


def _ways(report: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"{escape(report.data_name)}: {counted(report.n_compared, 'query')}, "
        f"{counted(report.models, 'model')}",
        title_justify="left",
        caption=f"{report.level:.0%} intervals, {report.n_draws} bootstrap draws",
        caption_justify="left",
    )
    table.add_column("way to answer")
    table.add_column("quality", justify="right")
    table.add_column("cost per query", justify="right")
    rows: list[tuple[str, Priced, str]] = [
        (f"best single: {report.best_single.name}", report.best_single, ""),
        *(
            (f"router: {r.name}", Priced(r.name, r.quality, r.cost), "bold")
            for r in report.routers.values()
        ),
        ("best per dataset (knows the dataset)", report.best_per_dataset, "dim"),
        ("oracle (knows the outcome)", report.oracle, "dim"),
    ]
    for label, priced, style in rows:
        table.add_row(escape(label), with_interval(priced.quality), money(priced.cost), style=style)
    return table


def _budgets(report: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Quality at a share of the best single model's cost", title_justify="left")
    table.add_column("")
    for share in SHARES:
        table.add_column(f"{float(share):.0%}", justify="right")
    table.add_column("AIQ", justify="right")
    table.add_row(
        f"cheapest mix of {counted(report.mix, 'single model')}",
        *(stacked(with_interval(report.mix_at_budget[s])) for s in SHARES),
        stacked(with_interval(report.mix_aiq)),
    )
    for result in report.routers.values():
        table.add_row(
            escape(f"router: {result.name}"),
            *(stacked(with_interval(result.at_budget[s])) for s in SHARES),
            stacked(with_interval(result.aiq)),
            style="bold",
        )
        table.add_row(
            "  gain over the mix",
            *(stacked(with_interval(result.gain[s], signed=True)) for s in SHARES),
            "",
        )
    return table


def _details(report: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Routers", title_justify="left")
    table.add_column("")
    for name in report.routers:
        table.add_column(escape(name), justify="right")
    for label, cells in detail_rows(list(report.routers.values())):
        table.add_row(escape(label), *map(escape, cells))
    return table


def detail_rows(results: list[RouterResult]) -> list[tuple[str, list[str]]]:
    """The remaining figures of each router: a label and one cell a router; empty rows left out."""
    rows = {
        "gain over the best single, any cost": [
            with_interval(r.gain["any"], signed=True) for r in results
        ],
        "cost at the best single's quality": [money(r.cost_at_best) for r in results],
        "CostSave": [with_interval(r.cost_save) for r in results],
        "PerfGain": [with_interval(r.perf_gain, signed=True) for r in results],
        "APGR": [with_interval(r.apgr) for r in results],
        "CPT(50%)": [with_interval(r.cpt50) for r in results],
        "CPT(80%)": [with_interval(r.cpt80) for r in results],
        "regret to the oracle": [with_interval(r.regret) for r in results],
        "ECE": [with_interval(r.ece) for r in results],
        "Brier": [with_interval(r.brier) for r in results],
        "decision p50": [milliseconds(r.latency_p50_ms) for r in results],
        "decision p99": [milliseconds(r.latency_p99_ms) for r in results],
    }
    for position, policy in enumerate(results[0].policies if results else ()):
        rows[f"policy {policy.policy}"] = [
            f"{with_interval(r.policies[position].quality)} {money(r.policies[position].cost)}"
            for r in results
        ]
    return [(label, cells) for label, cells in rows.items() if any(c != NONE for c in cells)]


NONE = "-"


def with_interval(figure: Figure, *, signed: bool = False) -> str:
    """A share or quality with three digits and its interval."""
    if not figure.known:
        return NONE
    sign = "+" if signed else ""
    if figure.low != figure.low:
        return f"{figure.value:{sign}.3f}"
    return f"{figure.value:{sign}.3f} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"


def stacked(cell: str) -> str:
    """A figure above its interval, escaped: in a wide table neither is then broken in two.

    Example:
        >>> stacked("0.500 [0.400, 0.600]").splitlines()
        ['0.500', '[0.400, 0.600]']
    """
    from rich.markup import escape

    return escape(cell.replace(" [", "\n[", 1))


def money(figure: Figure) -> str:
    """Dollars."""
    return usd(figure.value) if figure.known else NONE


def milliseconds(figure: Figure) -> str:
    """Milliseconds with their interval."""
    if not figure.known:
        return NONE
    if figure.low != figure.low:
        return f"{figure.value:.2f} ms"
    return f"{figure.value:.2f} ms [{figure.low:.2f}, {figure.high:.2f}]"
