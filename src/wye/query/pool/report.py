"""What a pool is worth, as data, in words and on a screen. Quality is 0 to 1, money USD a query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wye.query.report.screen import money, with_interval
from wye.query.report.types import interval, number
from wye.query.wording import listed, usd

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.query.metrics.resample import Figure


@dataclass(frozen=True)
class ModelValue:
    """One model.

    Attributes:
        quality, cost: of its answers to everything.
        share: of the queries that go to it when all models may be chosen at any cost.
        marginal: quality that routing loses without it; negative where routing gains, unknown
            where the budget cannot be kept without it.
        oracle_marginal: the same for an oracle, that knows the outcomes.
    """

    name: str
    quality: Figure
    cost: Figure
    share: float
    marginal: Figure
    oracle_marginal: Figure

    @property
    def needed(self) -> bool:
        """Whether what routing loses without it is above chance, or the budget itself."""
        return self.marginal.low > 0 or not self.marginal.known


@dataclass(frozen=True)
class Pool:
    """A subset of the models.

    Attributes:
        models: in the order in which they were selected.
        quality: routed, at the budget; unknown where the budget cannot be kept.
        loss: against all models.
        oracle: the same models, chosen with the outcomes known.
        held_out: routed quality of pools of this size on questions that the selection did not see;
            NaN where it was not measured.
    """

    models: tuple[str, ...]
    quality: Figure
    loss: Figure
    oracle: Figure
    held_out: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "models": list(self.models),
            "quality": number(self.quality),
            "quality_ci": interval(self.quality),
            "loss": number(self.loss),
            "loss_ci": interval(self.loss),
            "oracle": number(self.oracle),
            "held_out": self.held_out if math.isfinite(self.held_out) else None,
        }


@dataclass(frozen=True)
class PoolReport:
    """What `wye.query.pool.value_pool` found.

    Attributes:
        budget: USD per query, None for any cost.
        tolerance: quality that `enough` may lose.
        whole, oracle: quality of all models, routed and by the oracle.
        best_single, best_single_quality: the model that is best for everything, at its own cost.
        models: most valuable first.
        greedy: forward selection, one model more each.
        exact: the best subset of each size, as far as they could all be tried.
        why_not_exact: in words, where they could not.
        enough: the smallest pool within the tolerance of all models.
        picked: share of bootstrap samples in which a selection of that size takes each model.
    """

    data_name: str
    n_queries: int
    router: str
    budget: float | None
    tolerance: float
    level: float
    seed: int
    whole: Figure
    oracle: Figure
    best_single: str
    best_single_quality: Figure
    models: tuple[ModelValue, ...]
    greedy: tuple[Pool, ...]
    exact: tuple[Pool, ...]
    why_not_exact: str
    enough: Pool
    picked: dict[str, float]
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The answer in a few sentences."""
        at = "" if self.budget is None else f" at {usd(self.budget)} a query"
        if not self.whole.known:
            return f"no choice among these models keeps {usd(self.budget or 0.0)} a query."
        kept = self.enough
        rest = [m.name for m in self.models if m.name not in kept.models]
        verb = "is" if len(kept.models) == 1 else "are"
        reached = f"routing reaches {with_interval(kept.quality)}{at} with that"
        whole = f"{with_interval(self.whole)} with all {len(self.models)} models"
        said = [f"{listed(list(kept.models))} {verb} enough: {reached}, and {whole}"]
        if rest:
            said.append(f"without {listed(rest)} it loses {with_interval(kept.loss, signed=True)}")
        needed = [m.name for m in self.models if m.needed]
        said.append(
            f"leaving out {'any one of ' * (len(needed) > 1)}{listed(needed)} would cost quality "
            "beyond chance"
            if needed
            else "no single model is missed beyond chance when it alone is left out"
        )
        if len(kept.models) == 1:
            said.append("with one model there is nothing to route")
        unsteady = [m for m in kept.models if self.picked[m] < 0.8]
        if unsteady:
            said.append(
                f"other samples of these queries would often have picked others than "
                f"{listed(unsteady)}"
            )
        return "; ".join(said) + "."

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "format": "wye.pool/1",
            "data": self.data_name,
            "queries": self.n_queries,
            "router": self.router,
            "budget_usd": self.budget,
            "tolerance": self.tolerance,
            "level": self.level,
            "seed": self.seed,
            "quality": number(self.whole),
            "quality_ci": interval(self.whole),
            "oracle": number(self.oracle),
            "oracle_ci": interval(self.oracle),
            "best_single": self.best_single,
            "best_single_quality": number(self.best_single_quality),
            "models": [
                {
                    "model": m.name,
                    "quality": number(m.quality),
                    "cost_usd": number(m.cost),
                    "share": m.share,
                    "marginal": number(m.marginal),
                    "marginal_ci": interval(m.marginal),
                    "oracle_marginal": number(m.oracle_marginal),
                    "oracle_marginal_ci": interval(m.oracle_marginal),
                    "picked": self.picked[m.name],
                }
                for m in self.models
            ],
            "greedy": [p.to_dict() for p in self.greedy],
            "exact": [p.to_dict() for p in self.exact],
            "why_not_exact": self.why_not_exact,
            "enough": list(self.enough.models),
            "notes": list(self.notes),
            "verdict": self.words,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        at = "at any cost" if self.budget is None else f"at {usd(self.budget)} a query"
        models = Table(
            title=f"{escape(self.data_name)}: what routing ({self.router}) loses without a model, "
            f"{at}",
            title_justify="left",
        )
        heads = ("model", "alone", "cost", "share", "loses without it", "oracle loses", "picked")
        for head in heads:
            models.add_column(head, justify="left" if head == "model" else "right")
        for m in self.models:
            models.add_row(
                escape(m.name),
                f"{m.quality.value:.3f}",
                money(m.cost),
                f"{m.share:.0%}",
                with_interval(m.marginal, signed=True) if m.marginal.known else "the budget",
                with_interval(m.oracle_marginal, signed=True),
                f"{self.picked[m.name]:.0%}",
            )
        yield models
        pools = Table(title="Pools", title_justify="left")
        for head in ("models", "routed quality", "loss against all", "unseen", "oracle"):
            pools.add_column(head, justify="left" if head == "models" else "right")
        for k, pool in enumerate(self.greedy):
            pools.add_row(
                f"+ {escape(pool.models[-1])}" if k else escape(pool.models[0]),
                with_interval(pool.quality),
                with_interval(pool.loss, signed=True),
                f"{pool.held_out:.3f}" if math.isfinite(pool.held_out) else "-",
                f"{pool.oracle.value:.3f}" if pool.oracle.known else "-",
            )
        for pool in self.exact:
            greedy = next(p for p in self.greedy if len(p.models) == len(pool.models))
            if set(pool.models) != set(greedy.models):
                pools.add_row(
                    f"best of {len(pool.models)}: {escape(', '.join(pool.models))}",
                    with_interval(pool.quality),
                    with_interval(pool.loss, signed=True),
                    "-",
                    f"{pool.oracle.value:.3f}" if pool.oracle.known else "-",
                )
        yield pools
        if self.why_not_exact:
            yield f"[dim]{escape(self.why_not_exact)}[/]"
        yield f"[bold]{escape(self.words)}[/]"
