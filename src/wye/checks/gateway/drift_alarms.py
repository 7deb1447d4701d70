"""Alarms of the watch: are false ones as rare as promised, and are real changes found?

Paper: E-detectors, arXiv 2203.03532. The gateway's own monitors (`wye.gateway.watch.traffic`,
`wye.gateway.watch.answers`) watch simulated traffic. Its requests are the data's questions by the
default embedder, drawn with replacement and jittered, so that no two are the same; every third
dataset by name is the other kind, which comes up only where the traffic shifts. Answers have a
log-normal length and pace, and 2% are refusals.

Steady traffic, at a promise of one false alarm in 1,000: no more alarms than that. Changes, at one
in 100,000: 30% of the requests of the other kind, and answers that are 50% longer, are found within
500 in 9 of 10 runs, and what is found is not older than the change. Baseline in the same runs: an
alarm whenever the mean of 50 requests leaves 3 standard deviations of the reference, in any figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.gateway.intervals import of_count, of_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wye.checks.base import CheckContext
    from wye.data import RoutingData
    from wye.gateway.watch.detector import Change

PROMISED, RARE = 1000.0, 100_000.0
STEADY_RUNS, STEADY = 6, 3000
FINDING_RUNS, WITHIN = 10, 500
FOUND = 0.9
REFERENCE, BATCH = 1000, 50
OTHERS, LONGER = 0.3, float(np.log(1.5))
_JITTER, _DEVIATIONS = 0.02, 3.0

Draw = Callable[[np.random.Generator, int, bool], Any]


class _Watch(Protocol):
    """What the monitors of the watch have in common."""

    seen: int

    @property
    def learning(self) -> bool: ...

    def take(self, figures: Any, /) -> Change | None: ...


@dataclass(frozen=True)
class _Kind:
    """A monitor, and the traffic that it watches.

    Attributes:
        draw: so many requests, changed or not, as the monitor takes them.
        make: a monitor by its promise.
    """

    name: str
    change: str
    draw: Draw
    make: Callable[[np.random.Generator, float], _Watch]


def check(context: CheckContext) -> CheckResult:
    """False alarms on steady traffic, and how soon changes are found.

    Raises:
        CheckError: too few datasets.
    """
    claims: list[Claim] = []
    figures: dict[str, float] = {}
    kinds = (_requests(context.data), _answers())
    for kind in kinds:
        context.progress(f"{kind.name}: steady")
        alarms, watched, plain = 0, 0, 0
        for seed in context.seeds:
            for run in range(STEADY_RUNS):
                counted = _steady(kind, np.random.default_rng([seed, run]))
                alarms, watched = alarms + counted[0], watched + counted[1]
                plain += counted[2]
        promised = watched / PROMISED
        low, high = (bound / promised for bound in of_count(alarms))
        claims.append(Claim(f"{kind.name}: false alarms / promised, at most (95%)", high, "<=", 1))
        figures |= {
            f"{kind.name}: false alarms / promised": alarms / promised,
            f"{kind.name}: at least (95%)": low,
            f"{kind.name}: steady ones watched": float(watched),
            f"{kind.name}: false alarms of the baseline / promised": plain / promised,
        }
        context.progress(f"{kind.name}: {kind.change}")
        found = [
            _delay(kind, np.random.default_rng([seed, STEADY_RUNS + run]))
            for seed in context.seeds
            for run in range(FINDING_RUNS)
        ]
        good = sum(0 < delay <= WITHIN for delay in found)
        share = good / len(found)
        claims.append(Claim(f"{kind.name}: {kind.change}: found in time", share, ">=", FOUND))
        low, high = of_share(good, len(found))
        figures |= {
            f"{kind.name}: {kind.change}: at least (95%)": low,
            f"{kind.name}: {kind.change}: at most (95%)": high,
            f"{kind.name}: {kind.change}: found after, median": float(np.median(found)),
        }
    return CheckResult(
        tuple(claims),
        figures,
        context.seeds,
        f"{len(context.seeds) * STEADY_RUNS} runs of {STEADY} steady ones at a promise of one "
        f"false alarm in {PROMISED:.0f}, {len(context.seeds) * FINDING_RUNS} with a change at one "
        f"in {RARE:.0f}; requests like those of {context.data.name}, answers simulated.",
    )


def _requests(data: RoutingData) -> _Kind:
    from wye.embed import get_embedder
    from wye.gateway.watch.traffic import TrafficMonitor

    names = sorted(set(data.datasets))
    if len(names) < 3:
        raise CheckError(
            f"{data.name} has {len(names)} datasets; a shift to other requests needs 3. Name "
            "other data"
        )
    other = np.isin(data.datasets, names[::3])
    vectors = get_embedder("static").embed(data.texts)
    usual, others = vectors[~other], vectors[other]

    def draw(g: np.random.Generator, n: int, changed: bool) -> NDArray[np.float32]:
        rows = np.asarray(usual[g.integers(len(usual), size=n)], np.float64)
        if changed:
            shifted = g.random(n) < OTHERS
            rows[shifted] = others[g.integers(len(others), size=int(shifted.sum()))]
        rows = rows + _JITTER * g.standard_normal(rows.shape)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def make(g: np.random.Generator, promise: float) -> _Watch:
        return TrafficMonitor(
            false_alarm_every=promise,
            learn_from=REFERENCE // 2,
            generator=g,
            reference=draw(g, REFERENCE, False),
        )

    return _Kind("requests", f"{OTHERS:.0%} of another kind", draw, make)


def _answers() -> _Kind:
    from wye.gateway.watch.answers import AnswerMonitor, figures_of

    def draw(g: np.random.Generator, n: int, changed: bool) -> NDArray[np.float64]:
        tokens = np.exp(g.normal(5.0 + LONGER * changed, 0.8, n)).astype(int) + 1
        seconds = tokens * np.exp(g.normal(-4.0, 0.4, n))
        refused = g.random(n) < 0.02
        return np.stack(
            [
                figures_of(
                    output_tokens=int(t), seconds=float(s), opening="", refused=bool(r),
                    finish_reason="stop", logprob=None,
                )
                for t, s, r in zip(tokens, seconds, refused, strict=True)
            ]
        )  # fmt: skip

    def make(g: np.random.Generator, promise: float) -> _Watch:
        watch = AnswerMonitor(false_alarm_every=promise, learn_from=REFERENCE // 2, generator=g)
        watch.take(draw(g, REFERENCE, False))
        return watch

    return _Kind("answers", "50% longer", draw, make)


def _steady(kind: _Kind, g: np.random.Generator) -> tuple[int, int, int]:
    """Alarms, how many were watched, and alarms of the baseline."""
    reference = kind.draw(g, REFERENCE, False)
    watch, alarms, watched, plain = kind.make(g, PROMISED), 0, 0, 0
    centre, spread = reference.mean(axis=0), reference.std(axis=0) / BATCH**0.5
    for _ in range(0, STEADY, BATCH):
        drawn = kind.draw(g, BATCH, False)
        watched += 0 if watch.learning else BATCH
        alarms += watch.take(drawn) is not None
        away = np.abs(drawn.mean(axis=0) - centre)
        plain += bool((away > _DEVIATIONS * spread).any())
    return alarms, watched, plain


def _delay(kind: _Kind, g: np.random.Generator) -> float:
    """After how many changed ones the change is found; not above 0 for a false alarm before it."""
    watch = kind.make(g, RARE)
    for _ in range(0, REFERENCE, BATCH):
        if watch.take(kind.draw(g, BATCH, False)) is not None:
            return 0.0
    start = watch.seen
    while watch.seen < start + 4 * WITHIN:
        found = watch.take(kind.draw(g, BATCH // 2, True))
        if found is not None:
            return float(found.at - start)
    return float("inf")
