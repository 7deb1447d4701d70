"""What rewrites and attacks did to a router's choices, as data and on a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wye.query.report.screen import NONE, stacked, with_interval
from wye.query.report.types import interval, number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.query.metrics.resample import Figure


@dataclass(frozen=True)
class Way:
    """One way of changing the text of queries.

    Attributes:
        kind: `rewrite` or `attack`.
        texts: how many texts it changed; the figures are of these.
        example: one of them.
        unchanged: share of choices that stay.
        quality_change: of the answers of the chosen models to the plain text, after minus before.
        dearer: share of queries that go to a dearer model than before.
        cost_ratio: what the chosen answers cost, after over before; the longer prompt left out.
    """

    name: str
    kind: str
    texts: int
    example: str
    unchanged: Figure
    quality_change: Figure
    dearer: Figure
    cost_ratio: Figure

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        figures = {
            name: getattr(self, name)
            for name in ("unchanged", "quality_change", "dearer", "cost_ratio")
        }
        told: dict[str, Any] = {"way": self.name, "kind": self.kind, "texts": self.texts}
        told["example"] = self.example
        for name, figure in figures.items():
            told[name], told[f"{name}_ci"] = number(figure), interval(figure)
        return told


@dataclass(frozen=True)
class RobustnessReport:
    """What `wye.query.robustness.robustness` found.

    Attributes:
        ways: rewrites, then attacks.
        suffix: what the search against the router found; empty where nothing moved it.
        priced: whether costs are known.
    """

    router: str
    policy: str
    data_name: str
    n_queries: int
    ways: tuple[Way, ...]
    suffix: str
    priced: bool
    seed: int
    level: float

    @property
    def words(self) -> str:
        """The answer in a sentence or two."""
        rewrites = [w for w in self.ways if w.kind == "rewrite" and w.texts]
        attacks = [w for w in self.ways if w.kind == "attack" and w.texts]
        said = []
        if rewrites:
            worst = min(rewrites, key=lambda w: w.unchanged.value)
            said.append(
                f"under rewrites that ask the same, {worst.unchanged.value:.0%} of the choices "
                f"stay in the worst case ({worst.name})"
            )
        priced = [w for w in attacks if w.cost_ratio.known]
        if priced:
            dear = max(priced, key=lambda w: w.cost_ratio.value)
            verb = (
                f"raises what is spent to {dear.cost_ratio.value:.2f} times"
                if dear.cost_ratio.low > 1.0
                else "raises what is spent by no more than chance: to "
                f"{dear.cost_ratio.value:.2f} times"
            )
            said.append(f"the strongest attack ({dear.name}) {verb}")
        return "; ".join(said) + "."

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "format": "wye.robustness/1",
            "router": self.router,
            "policy": self.policy,
            "data": self.data_name,
            "queries": self.n_queries,
            "ways": [way.to_dict() for way in self.ways],
            "suffix": self.suffix,
            "seed": self.seed,
            "level": self.level,
            "verdict": self.words,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        table = Table(
            title=f"What other words do to the choices: {escape(self.router)} on {self.n_queries} "
            f"queries of {escape(self.data_name)}, policy {escape(self.policy)}",
            title_justify="left",
        )
        for head in ("way", "texts", "choices that stay", "quality", "to a dearer model", "spent"):
            table.add_column(head, justify="left" if head == "way" else "right")
        for way in self.ways:
            spent = NONE if not way.cost_ratio.known else f"x {with_interval(way.cost_ratio)}"
            table.add_row(
                f"{way.kind}: {escape(way.name)}",
                str(way.texts),
                stacked(with_interval(way.unchanged)),
                stacked(with_interval(way.quality_change, signed=True)),
                stacked(with_interval(way.dearer)),
                stacked(spent),
            )
        yield table
        yield f"[dim]searched suffix: {escape(repr(self.suffix))}[/]"
        yield f"[bold]{escape(self.words)}[/]"
