"""A replay in words and on a screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wye.query.off_policy import Estimated, Evaluation
from wye.query.wording import usd

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wye.gateway.replay import Replay

# Single requests cost fractions of a cent; a thousand of them make readable figures.
_THOUSAND = 1000.0
_TITLES = {"quality": "quality", "cost": "USD per 1,000", "latency": "latency in s"}
_ROWS = (
    ("logged policy", "logged"),
    ("IPS", "ips"),
    ("SNIPS", "snips"),
    ("doubly robust", "doubly_robust"),
    ("policy - logged", "difference"),
)


def verdict(replay: Replay) -> str:
    """What a replay comes to, one sentence a figure, each with its interval.

    A difference is claimed where its interval excludes 0.
    """
    said = [_sentence(name, found) for name, found in replay.figures.items()]
    said += [f"Nothing can be said of {name}: it is {why}." for name, why in replay.silent.items()]
    return " ".join(said)


def as_screen(replay: Replay) -> Iterator[RenderableType]:
    """Tables for Rich: shares of the targets, the figures, the verdict and the warnings."""
    from rich.markup import escape
    from rich.table import Table

    heading = f"on {replay.decisions} decisions of {escape(replay.log)}"
    yield f"[bold]{escape(replay.policy)}[/] {heading}"
    made = [f"{escape(name)} ({n})" for name, n in replay.logged_policies.items()]
    yield f"logged under {', '.join(made)}"
    if replay.left_out:
        yield "left out: " + ", ".join(f"{n} that {why}" for why, n in replay.left_out.items())
    shares = Table("target", box=None, pad_edge=False)
    for heading in ("logged", "policy"):
        shares.add_column(heading, justify="right")
    for name, (before, after) in replay.shares.items():
        shares.add_row(escape(name), f"{before:.1%}", f"{after:.1%}")
    yield ""
    yield shares
    yield ""
    yield _figures(replay)
    yield ""
    yield f"[bold]{escape(verdict(replay))}[/]"
    for note in replay.notes:
        yield f"[yellow]{escape(note)}[/]"
    for warning, names in _warnings(replay).items():
        yield f"[yellow]{', '.join(names)}: {escape(warning)}[/]"


def _figures(replay: Replay) -> RenderableType:
    from rich.table import Table

    names = list(replay.figures)
    levels = {found.level for found in replay.figures.values()}
    table = Table(
        " / ".join(f"{level:.0%} intervals" for level in levels), box=None, pad_edge=False
    )
    for name in names:
        table.add_column(_TITLES[name], justify="right")
    for title, attribute in _ROWS:
        table.add_row(
            title, *(_cell(name, getattr(replay.figures[name], attribute)) for name in names)
        )
    facts: tuple[tuple[str, Callable[[Evaluation], str]], ...] = (
        ("decisions", lambda e: str(e.rows)),
        ("effective size", lambda e: f"{e.effective:.0f}"),
        ("expected size", lambda e: f"{e.implied:.0f}"),
        ("support", lambda e: f"{e.supported:.1%}"),
        ("mean weight", lambda e: f"{e.mean_weight:.3f}"),
    )
    for title, tell in facts:
        table.add_row(title, *(tell(replay.figures[name]) for name in names))
    return table


def _warnings(replay: Replay) -> dict[str, list[str]]:
    """Each warning once, with the figures that it is of."""
    found: dict[str, list[str]] = {}
    for name, evaluation in replay.figures.items():
        for warning in evaluation.warnings:
            found.setdefault(warning, []).append(name)
    return found


def _sentence(name: str, found: Evaluation) -> str:
    gap, before = found.difference, float(found.logged.value)
    low, high = float(gap.low), float(gap.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"No difference in {name} can be told from {found.rows} decisions without spread."

    def tell(amount: float) -> str:
        # Relative figures only where there is something to be relative to.
        if name == "quality" or before <= 0:
            return _amount(name, abs(amount))
        percent = 100.0 * abs(amount) / before
        return f"{percent:.0f}%" if percent >= 1 else f"{percent:.2g}%"

    if low <= 0.0 <= high:
        return f"No difference in {name} can be told: from {tell(low)} less to {tell(high)} more."
    word = "more" if low > 0 else "less"
    least, most = sorted((abs(low), abs(high)))
    return (
        f"{name.capitalize()}: {tell(float(gap.value))} {word} than the logged policy "
        f"({tell(least)} to {tell(most)})."
    )


def _cell(name: str, estimated: Estimated | None) -> str:
    if estimated is None or not math.isfinite(float(estimated.value)):
        return "-"
    value, low, high = (_amount(name, float(part)) for part in estimated)
    if not math.isfinite(float(estimated.low)):
        return value
    return f"{value} ({low} to {high})"


def _amount(name: str, value: float) -> str:
    if name != "cost":
        return f"{value:.3f}"
    told = usd(abs(_THOUSAND * value)).removeprefix("$")
    return told if value >= 0 else f"-{told}"
