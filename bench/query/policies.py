"""Time of a decision without the router, and of the report: `python bench/query/policies.py`.

Prints microseconds per decision (p50, p99) for one query and 9 models, estimate to `Choice` and to
a `Decision` with its reasons, and milliseconds for 10,000 queries at once; then the seconds of an
honest report of 2000 queries and 28 models with 1000 bootstrap draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from wye.query.base import Estimate
from wye.query.decisions import Decisions
from wye.query.policies import Cascade, JudgeModel, parse_policy
from wye.query.policy import Policy
from wye.query.report import evaluate
from wye.testing.outcomes import estimate_of, routing_data

SPECS = (
    "quality",
    "utility:cost_weight=50",
    "threshold:quality=0.7",
    "abstain:max_std=0.2,inner=utility:cost_weight=50",
    "explore:epsilon=0.05",
    "budget:total=1000000,horizon=1000000",
    "cascade:cost_weight=50",
)


def estimate(n: int, m: int, seed: int = 0) -> Estimate:
    """Estimates of n queries and m models."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(0.2, 0.9, (n, m))
    cost = np.geomspace(1e-4, 1e-2, m) * rng.uniform(0.5, 1.5, (n, m))
    names = tuple(f"model-{k}" for k in range(m))
    return Estimate(names, quality, 0.1 * quality, cost, cost * 100, np.zeros(n))


def timed(call: Callable[[], object], repeats: int) -> np.ndarray:
    """Seconds of each of `repeats` calls, after as many again to warm up (at most 100)."""
    for _ in range(min(repeats, 100)):
        call()
    took = np.empty(repeats)
    for k in range(repeats):
        started = time.perf_counter()
        call()
        took[k] = time.perf_counter() - started
    return took


def with_judge(policy: Policy, models: tuple[str, ...]) -> Policy:
    """A cascade with a judge that says something, so that it has sets to compare."""
    if isinstance(policy, Cascade):
        m = len(models)
        ones = np.ones(m)
        policy.judge_ = JudgeModel(
            models, 0 * ones, ones, 0.7 * ones, 0.6 * ones, np.eye(m), 1000 * ones
        )
    return policy


def main() -> None:
    """Print the table."""
    one, many = estimate(1, 9), estimate(10_000, 9)
    rng = np.random.default_rng(0)
    print(
        f"{'policy':52} {'choose p50':>11} {'p99':>8} {'decision p50':>13} {'10,000 at once':>15}"
    )
    for spec in SPECS:
        policy = with_judge(parse_policy(spec), one.models)
        choose = timed(lambda p=policy: p.choose(one, generator=rng), 2000) * 1e6

        def decided(policy: Policy = policy) -> object:
            choice = policy.choose(one, generator=rng)
            return Decisions("r", policy.describe(), ["some text"], one, choice, 0.0)[0]

        whole = timed(decided, 1000) * 1e6
        batch = timed(lambda p=policy: p.choose(many, generator=rng), 3) * 1e3
        p50, p99 = np.quantile(choose, (0.5, 0.99))
        print(
            f"{spec:52} {p50:8.0f} us {p99:5.0f} us {np.median(whole):10.0f} us "
            f"{np.median(batch):12.1f} ms"
        )
    base = estimate(2000, 28, seed=1)
    outcome = (np.random.default_rng(2).random(base.quality.shape) < base.quality).astype(float)
    data = routing_data(outcome, base.cost)
    guess = estimate_of(data, base.quality, base.cost)
    took = timed(lambda: evaluate(guess, data, bootstrap=1000), 2)
    print(f"report of 2000 queries x 28 models, 1000 draws: {took.min():.2f} s")


if __name__ == "__main__":
    main()
