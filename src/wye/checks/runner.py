"""Running checks: which, on what, and what came out, as a table, as JSON and as an exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wye.checks.base import CheckContext, CheckError, CheckResult

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.catalog import Catalog, System
    from wye.data import RoutingData

FAST_SECONDS = 30.0
Verdict = Literal["holds", "does not hold", "error"]


@dataclass(frozen=True)
class CheckRun:
    """One check: what it measured, or why it could not.

    Attributes:
        slug: the system.
        result: None where the check raised.
        error: what it raised, in words; None where it ended.
        seconds: how long it took.
    """

    slug: str
    result: CheckResult | None
    error: str | None
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """`error` is no verdict on the claim: it was never measured."""
        if self.result is None:
            return "error"
        return "holds" if self.result.holds else "does not hold"


@dataclass(frozen=True)
class CheckSummary:
    """Every check that ran, and the data that it ran on."""

    runs: tuple[CheckRun, ...]
    data_name: str

    @property
    def exit_code(self) -> int:
        """0 every claim holds; 1 one does not; 3 a check could not run."""
        verdicts = {run.verdict for run in self.runs}
        return 3 if "error" in verdicts else 1 if "does not hold" in verdicts else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "data": self.data_name,
            "exit_code": self.exit_code,
            "checks": [
                {
                    "slug": run.slug,
                    "verdict": run.verdict,
                    "seconds": round(run.seconds, 3),
                    "error": run.error,
                    "result": None if run.result is None else run.result.to_dict(),
                }
                for run in self.runs
            ],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape

        colours = {"holds": "green", "does not hold": "red", "error": "yellow"}
        for run in self.runs:
            colour = colours[run.verdict]
            yield f"[bold]{escape(run.slug)}[/] [{colour}]{run.verdict}[/] ({run.seconds:.1f} s)"
            if run.result is None:
                yield f"  {escape(run.error or '')}"
                continue
            yield f"  {escape(run.result.text)}"
            for claim in run.result.claims:
                yield f"  [{'green' if claim.holds else 'red'}]{escape(str(claim))}[/]"
            shown = ", ".join(f"{k} {v:.4g}" for k, v in run.result.figures.items())
            yield f"  [dim]{escape(shown)}[/]"
            yield f"  [dim]seeds {', '.join(str(s) for s in run.result.seeds)}[/]"
        counts = {v: sum(run.verdict == v for run in self.runs) for v in colours}
        said = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        yield f"{len(self.runs)} checks on {escape(self.data_name)}: {said}"


def run_checks(
    slugs: Sequence[str] | None = None,
    *,
    scale: str | None = None,
    data: RoutingData | None = None,
    fast: bool = False,
    seeds: Sequence[int] = (0, 1, 2),
    console: Console | None = None,
    catalog: Catalog | None = None,
) -> CheckSummary:
    """Run the checks of some systems, one after the other.

    Args:
        slugs: systems to check; all of them (of `scale`, if given) when None or empty.
        scale: only systems of this scale.
        data: outcomes to check on; the embedded set when None.
        fast: leave out checks that take longer than 30 seconds.
        seeds: of every random choice; figures are means over them.
        console: where progress is shown; nowhere when None.
        catalog: systems to choose from; those of this installation when None.

    Raises:
        WyeError: an unknown slug or scale, no check is left to run, or there is no data.

    Returns:
        One run per system. A check that raised is an error there, not a failed claim.
    """
    from wye.catalog import load_catalog

    known = (load_catalog() if catalog is None else catalog).of_scale(scale)
    chosen = _choose(known, slugs, fast)
    if data is None:
        from wye.data import load_embedded

        data = load_embedded()
    runs = []
    for number, system in enumerate(chosen, start=1):
        label = f"{number}/{len(chosen)} {system.slug}"
        with _progress(console, label) as progress:
            context = CheckContext(data=data, seeds=tuple(seeds), progress=progress)
            runs.append(run_check(system, context))
    return CheckSummary(tuple(runs), data.name)


def run_check(system: System, context: CheckContext) -> CheckRun:
    """Run one check; whatever it raises is reported as an error of that check."""
    started = time.perf_counter()
    try:
        result = system.load_check()(context)
        if not isinstance(result, CheckResult):
            raise CheckError(
                f"the check of {system.slug} returned {type(result).__name__}, expected CheckResult"
            )
    except Exception as error:  # noqa: BLE001 - the next check must run whatever this one raised
        reason = f"{type(error).__name__}: {error}"
        return CheckRun(system.slug, None, reason, time.perf_counter() - started)
    return CheckRun(system.slug, result, None, time.perf_counter() - started)


def _choose(catalog: Catalog, slugs: Sequence[str] | None, fast: bool) -> list[System]:
    if slugs:
        chosen = [catalog.get(slug) for slug in dict.fromkeys(slugs)]
    else:
        chosen = [s for s in catalog.systems if s.check]
    left = [s for s in chosen if not fast or s.seconds <= FAST_SECONDS]
    if not left:
        why = f"none of {[s.slug for s in chosen]} ends within {FAST_SECONDS:.0f} s"
        raise CheckError(f"no check to run: {why if chosen else 'no system has one'}")
    return left


@contextmanager
def _progress(console: Console | None, label: str) -> Iterator[Callable[[str], None]]:
    """A line that says which check is at work on what, while it is."""
    if console is None:
        yield lambda message: None
        return
    with console.status(label) as status:
        yield lambda message: status.update(f"{label}: {message}")
