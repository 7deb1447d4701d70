"""The per-layer table: load, balance, fan-out and dead experts of every layer.

Balance is measured layer by layer and never averaged over layers first, where collapse in different
layers cancels. Works on traces of any router, on training logs and on live models.

Shape letters: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.core import (
    Plan,
    load_entropy,
    load_variation,
    max_violation,
    retained_score,
    starved_share,
)
from wye.moe.base import MoEError
from wye.moe.diagnostics.choices import joined

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import nn

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        name: of the layer.
        load: `[E]` pairs of each expert.
        tokens: routed tokens.
        max_violation: largest load over mean load less 1.
        variation: coefficient of variation of the load.
        entropy: of the load over its largest value; 1 is balance.
        dead: experts with less than a quarter of the mean load.
        fan_out: mean experts per token.
        unrouted: share of tokens without an expert; NaN where it is not known.
        retained: total affinity of the chosen pairs over that of the best pairs of as many experts
            per token; NaN where affinities are not known.
    """

    name: str
    load: Floats
    tokens: int
    max_violation: float
    variation: float
    entropy: float
    dead: int
    fan_out: float
    unrouted: float
    retained: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form; what is not known is None."""
        row = {
            "layer": self.name,
            "load": self.load.tolist(),
            "tokens": self.tokens,
            "max_violation": self.max_violation,
            "variation": self.variation,
            "entropy": self.entropy,
            "dead": self.dead,
            "fan_out": self.fan_out,
            "unrouted": self.unrouted,
            "retained": self.retained,
        }
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}


@dataclass(frozen=True)
class Report:
    """Every routed layer of a model; printing it with Rich shows the table.

    Attributes:
        source: where the figures come from.
        layers: in the order of the model.
    """

    source: str
    layers: tuple[LayerReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {"source": self.source, "layers": [layer.to_dict() for layer in self.layers]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table

        table = Table(title=self.source, title_justify="left", box=None, padding=(0, 1, 0, 0))
        table.add_column("layer", overflow="fold")
        for name in ("experts", "tokens", "fan-out", "MaxVio", "CV", "entropy", "dead"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("unrouted", "retained"):
            table.add_column(name, justify="right", no_wrap=True)
        for layer in self.layers:
            table.add_row(
                layer.name or "(the model)",
                str(layer.load.shape[0]),
                str(layer.tokens),
                f"{layer.fan_out:.2f}",
                f"{layer.max_violation:.3f}",
                f"{layer.variation:.3f}",
                f"{layer.entropy:.3f}",
                str(layer.dead),
                _known(layer.unrouted),
                _known(layer.retained),
            )
        yield table


def report_loads(
    loads: Mapping[str, Any], tokens: Mapping[str, int], *, source: str = "loads"
) -> Report:
    """The report of counted loads.

    Args:
        loads: by layer, `[E]` pairs of each expert.
        tokens: by layer, routed tokens.
        source: for the title.

    Raises:
        MoEError: no layers, or a layer without tokens.
    """
    if not loads:
        raise MoEError(f"{source} holds no routed layer")
    return Report(
        source,
        tuple(_layer(name, load, tokens[name], np.nan, np.nan) for name, load in loads.items()),
    )


def report_trace(trace: Mapping[str, Sequence[Plan]], *, source: str = "trace") -> Report:
    """The report of a trace, over all passes that it holds.

    Args:
        trace: as `wye.moe.record` or `load_trace` gives it.
        source: for the title.

    Raises:
        MoEError: no layers, or plans of one layer with different numbers of experts.
    """
    if not trace:
        raise MoEError(f"{source} holds no routed layer")
    rows = []
    for name in trace:
        plan = joined(trace[name])
        unrouted = float(np.mean(np.asarray(plan.fan_out()) == 0)) if plan.n_sources else np.nan
        rows.append(_layer(name, plan.load(), plan.n_sources, unrouted, np.nan))
    return Report(source, tuple(rows))


def report_model(model: nn.Module, *, source: str = "last pass") -> Report:
    """The report of the last forward pass of a live model.

    Raises:
        MoEError: no routed layer, or nothing was run yet.
    """
    from wye.moe.base import routed_layers

    layers = routed_layers(model)
    if not layers:
        raise MoEError(f"{type(model).__name__} has no routed layer: attach routers to it first")
    rows = []
    for name, layer in layers.items():
        routing = layer.last
        plan = routing.plan
        unrouted = float((plan.fan_out() == 0).float().mean()) if plan.n_sources else np.nan
        affinity = routing.probabilities
        kept = np.nan
        if bool((affinity >= 0).all()) and len(plan):
            kept = retained_score(plan, affinity)
        rows.append(_layer(name, plan.load().cpu().numpy(), plan.n_sources, unrouted, kept))
    return Report(source, tuple(rows))


def _layer(name: str, load: Any, tokens: int, unrouted: float, retained: float) -> LayerReport:
    counts = np.asarray(load, np.float64)
    return LayerReport(
        name,
        counts,
        int(tokens),
        max_violation(counts),
        load_variation(counts),
        load_entropy(counts),
        round(starved_share(counts) * counts.shape[0]),
        float(counts.sum() / tokens) if tokens else 0.0,
        float(unrouted),
        float(retained),
    )


def _known(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
