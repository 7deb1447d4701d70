"""Conformal risk control: a promised mean quality is kept on new queries, for less than the best.

Paper: Angelopoulos et al., arXiv 2208.02814. The promise is a share of the best single model's
quality in training; the cutoff is found on held-out queries and measured on others. Baseline in the
same run: the uncalibrated rule, which takes estimates for the truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.query.base import Estimate
    from wye.query.policies import Threshold

PROMISES = (0.98, 0.9, 0.8)
ERRORS = 2.0


def check(context: CheckContext) -> CheckResult:
    """Quality kept minus quality promised, within two standard errors, and the cost of keeping it.

    Raises:
        CheckError: the set has no costs.
    """
    outcomes = [_trial(trial) for trial in trials(context, test_share=0.5, costs=True)]
    figures: dict[str, float] = {}
    claims = []
    for share in PROMISES:
        rows = [outcome[share] for outcome in outcomes if outcome[share]]
        at = f"at {share:.0%}"
        figures[f"refused {at}"] = 1.0 - len(rows) / len(outcomes)
        if not rows:
            continue
        figures |= {f"{name} {at}": value for name, value in averaged(rows).items()}
        # The error is of the queries it was calibrated on and of those measured on; seeds share
        # queries, so they do not shrink it.
        slack = -ERRORS * figures[f"error {at}"]
        gap = figures[f"kept {at}"] - figures[f"promised {at}"]
        claims.append(Claim(f"kept - promised {at}", gap, ">=", slack))
        claims.append(Claim(f"cost share {at}", figures[f"cost share {at}"], "<=", 1.0))
    what = "Mean quality promised and kept; cost as a share of routing by quality alone."
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _trial(trial: Trial) -> dict[float, dict[str, float]]:
    """Figures of each promise; none of one that the rule refuses to give on these estimates."""
    from wye.query.linear import LinearRouter
    from wye.query.policies import Threshold
    from wye.query.policy import PolicyError

    router = LinearRouter(seed=trial.seed).fit(trial.train)
    # Another seed than that of the first split, or the second would follow it.
    halves = trial.test.split(test_share=0.5, seed=trial.seed + 1_000_003)
    held_out, test = halves.part("train"), halves.part("test")
    known, estimate = router.estimate(held_out.texts), router.estimate(test.texts)
    dearest = _taken(Threshold(quality=1.0, cutoff=float("inf")), estimate, test.cost)
    best = float(trial.train.quality[:, trial.best].mean())
    figures: dict[float, dict[str, float]] = {}
    for share in PROMISES:
        promise = share * best
        try:
            policy = Threshold(quality=promise).calibrate(known, held_out.quality)
        except PolicyError:
            figures[share] = {}
            continue
        kept = _taken(policy, estimate, test.quality)
        plain = _taken(Threshold(quality=promise), estimate, test.quality)
        error = float(kept.std() * np.sqrt(1 / len(kept) + 1 / len(held_out)))
        figures[share] = {
            "promised": promise,
            "kept": float(kept.mean()),
            "uncalibrated": float(plain.mean()),
            "error": error,
            "cost share": float(_taken(policy, estimate, test.cost).mean() / dearest.mean()),
        }
    return figures


def _taken(policy: Threshold, estimate: Estimate, values: Floats) -> Floats:
    from wye.query.policies.choosing import targets_of

    target = targets_of(policy.choose(estimate))
    return values[np.arange(len(target)), target]
