"""Peeking at an A/B: does it keep its level however often one looks, and find what differs?

Paper: Always valid inference, arXiv 1512.04922. Simulated experiments of the gateway are judged by
its own code (`wye.gateway.learning.sequential`, `verdict_of`) after every 20 units up to 2,000, by
all three metrics: a judged answer that is right or wrong, a log-normal cost, a request that fails.

Where the arms do not differ, any verdict at any look is wrong: over all looks and metrics at most
alpha = 5% of the experiments may end with one. Baseline in the same runs: the two-sided z test at
5% that every look repeats, on the rewards alone. Where the candidate is right 85% of the time and
the control 75%, the experiment must end as better in 9 of 10 runs of 4,000 units, and the bounds
may miss the true difference, at any look, in 5% of the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.gateway.intervals import of_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wye.checks.base import CheckContext
    from wye.gateway.learning.experiments import Experiment
    from wye.gateway.learning.sequential import Difference, Sums

ALPHA = 0.05
# Of three seeds with so many runs each, a rate of half of alpha is told from alpha.
RUNS, FINDING_RUNS = 200, 30
UNITS, FINDING_UNITS, EVERY = 2000, 4000, 20
FOUND = 0.9
Z = 1.959964
# Right answers, and share of the units that the candidate gets.
SAME = ((0.8, 0.5), (0.8, 0.1), (0.1, 0.5), (0.1, 0.1))
BETTER = (0.85, 0.75)
FAILING = 0.01


@dataclass(frozen=True)
class _Run:
    """How one simulated experiment ended.

    Attributes:
        state: of the first verdict; None where there was none.
        units: that it took.
        fooled: whether the z test ever said that the rewards differ.
        missed: whether bounds on the reward ever missed the true difference.
    """

    state: str | None
    units: int
    fooled: bool
    missed: bool


def check(context: CheckContext) -> CheckResult:
    """Wrong verdicts where nothing differs, and verdicts where something does."""
    claims: list[Claim] = []
    figures: dict[str, float] = {}
    numbers = count(1)
    for right, share in SAME:
        context.progress(f"scenario {next(numbers)} of {len(SAME) + 1}")
        runs = [
            _simulate(np.random.default_rng([seed, run]), (right, right), share, UNITS)
            for seed in context.seeds
            for run in range(RUNS)
        ]
        name = f"{right:.0%} right, {share:.0%} of the units"
        wrong = sum(run.state is not None for run in runs)
        low, high = of_share(wrong, len(runs))
        claims.append(Claim(f"{name}: wrong verdicts, at most (95%)", high, "<=", ALPHA))
        figures |= {
            f"{name}: wrong verdicts": wrong / len(runs),
            f"{name}: at least (95%)": low,
            f"{name}: wrong by a z test at every look": sum(r.fooled for r in runs) / len(runs),
        }
    context.progress(f"scenario {next(numbers)} of {len(SAME) + 1}")
    runs = [
        _simulate(np.random.default_rng([seed, RUNS + run]), BETTER, 0.5, FINDING_UNITS)
        for seed in context.seeds
        for run in range(FINDING_RUNS)
    ]
    found = [run.state == "better" for run in runs]
    missed = sum(run.missed for run in runs)
    low, high = of_share(sum(found), len(runs))
    claims += [
        Claim("better by 0.1: found, share of the runs", float(np.mean(found)), ">=", FOUND),
        Claim("better by 0.1: bounds that missed it", missed / len(runs), "<=", ALPHA),
    ]
    figures |= {
        "better by 0.1: found, at least (95%)": low,
        "better by 0.1: found, at most (95%)": high,
        "better by 0.1: units until then, median": float(np.median([r.units for r in runs])),
        "better by 0.1: missed, at most (95%)": of_share(missed, len(runs))[1],
    }
    return CheckResult(
        tuple(claims),
        figures,
        context.seeds,
        f"{len(context.seeds) * RUNS} experiments of {UNITS} units in each of {len(SAME)} settings "
        f"without a difference, {len(runs)} of {FINDING_UNITS} with one; a look every {EVERY} "
        "units. Simulated.",
    )


def _simulate(
    generator: np.random.Generator, right: tuple[float, float], share: float, units: int
) -> _Run:
    """One experiment to its first verdict; `right` of the candidate and the control."""
    from wye.gateway.learning.analysis import verdict_of
    from wye.gateway.learning.sequential import difference

    experiment = _experiment(share)
    plan, state, ended = experiment.plan, None, units
    fooled = missed = False
    for look, sums in _looks(generator, right, share, units):
        found: tuple[Difference, ...] = tuple(
            difference(
                metric, arms["candidate"], arms["control"],
                alpha=plan.alpha / len(sums), least=plan.least,
            )
            for metric, arms in sums.items()
        )  # fmt: skip
        reward = found[0]
        fooled = fooled or _z_test(sums["reward"], plan.least)
        if reward.low is not None and reward.high is not None:
            missed = missed or not reward.low <= right[0] - right[1] <= reward.high
        verdict = verdict_of(experiment, sums, found)
        if state is None and verdict is not None:
            state, ended = verdict.state, look
    return _Run(state, ended, fooled, missed)


def _experiment(share: float) -> Experiment:
    """An A/B that any metric may end."""
    from wye.gateway.learning.experiments import Experiment, Plan

    plan = Plan(alpha=ALPHA, cost_limit=0.0)
    return Experiment(
        "simulated", "simulated", "ab", "candidate", None, share, plan, "running",
        0.0, None, None, None,
    )  # fmt: skip


def _looks(
    generator: np.random.Generator, right: tuple[float, float], share: float, units: int
) -> list[tuple[int, dict[str, dict[str, Sums]]]]:
    """Units seen, and the sums of each metric and arm, at every look."""
    from wye.gateway.learning.analysis import METRICS
    from wye.gateway.learning.sequential import Sums

    arm = generator.random(units) < share
    values = dict(
        zip(
            METRICS,
            (
                (generator.random(units) < np.where(arm, *right)).astype(np.float64),
                1e-4 * generator.lognormal(0.0, 1.0, units),
                (generator.random(units) < FAILING).astype(np.float64),
            ),
            strict=True,
        )
    )
    steps = np.arange(EVERY, units + 1, EVERY) - 1

    def running(x: NDArray[np.float64]) -> list[float]:
        return [float(value) for value in np.cumsum(x)[steps]]

    members = {"candidate": arm, "control": ~arm}
    counts = {name: running(mask.astype(np.float64)) for name, mask in members.items()}
    sums = {
        metric: {name: (running(x * mask), running(x * x * mask)) for name, mask in members.items()}
        for metric, x in values.items()
    }
    return [
        (
            int(step) + 1,
            {
                metric: {
                    name: Sums(int(counts[name][k]), total[k], squares[k])
                    for name, (total, squares) in arms.items()
                }
                for metric, arms in sums.items()
            },
        )
        for k, step in enumerate(steps)
    ]


def _z_test(arms: dict[str, Sums], least: int) -> bool:
    """Whether the usual test, which holds for one look alone, says that the means differ."""
    first, second = arms["candidate"], arms["control"]
    if first.mean is None or second.mean is None or min(first.count, second.count) < least:
        return False
    variance = first.variance / first.count + second.variance / second.count
    return variance > 0 and abs(first.mean - second.mean) > Z * variance**0.5
