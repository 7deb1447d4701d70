"""Off-policy evaluation: do the intervals hold the truth as often as they promise?

Horvitz and Thompson 1952 (IPS), Swaminathan and Joachims 2015 (SNIPS), Dudik, Langford and Li 2011
(DR, arXiv 1103.4601). Where every model answered every question, the value of any policy is known.
A router learned on half of the questions gives a policy to evaluate, the best expected model, on
the other half. Logs are drawn from those: questions with replacement, models by a logged policy of
known propensities, which takes the best single model of training and explores (epsilon-greedy), or
draws by the router's own estimates (softmax).

Baseline in the same run: the normal interval from the sample's own spread. It is also measured
where exploration is rare, which is where it fails and the one here should not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials
from wye.query.off_policy import (
    Estimated,
    Logged,
    cross_fitted_direct,
    doubly_robust,
    implied_size,
    ips,
    snips,
)

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats, Trial

LEVEL = 0.95
NORMAL_95 = 1.96
LOGS = 300
ROWS = 800
EPSILON, RARE = 0.3, 0.05
TEMPERATURE = 0.1
FOLDS = 5
ESTIMATORS = ("IPS", "SNIPS", "DR")


def check(context: CheckContext) -> CheckResult:
    """Coverage and scatter of IPS, SNIPS and DR on drawn logs, against the known value.

    Raises:
        CheckError: too few queries or models.
    """
    rows = [_measured(trial) for trial in trials(context, test_share=0.5)]
    figures = averaged(rows)
    # Three standard errors of a rate that is kept exactly.
    slack = 3.0 * np.sqrt(LEVEL * (1.0 - LEVEL) / (LOGS * len(rows)))
    claims = [
        Claim(
            f"coverage of {name}, {log}", figures[f"coverage of {name}, {log}"], ">=", LEVEL - slack
        )
        for log in ("epsilon-greedy", "softmax", "rare exploration")
        for name in ESTIMATORS
    ]
    claims += [
        Claim(f"variance of DR / IPS, {log}", figures[f"variance of DR / IPS, {log}"], "<=", 1.0)
        for log in ("epsilon-greedy", "softmax")
    ]
    text = described(
        context,
        f"{LOGS} logs of {ROWS} decisions drawn for each seed and logged policy, "
        f"{LEVEL:.0%} intervals of the quality of the router's best expected model.",
    )
    return CheckResult(tuple(claims), figures, context.seeds, text)


@dataclass(frozen=True)
class _World:
    """Questions whose every answer is known, and what a router expects of them, `[Q, M]` each."""

    quality: Floats
    expected: Floats
    target: Floats

    @property
    def value(self) -> float:
        return float((self.target * self.quality).sum(axis=1).mean())


def _measured(trial: Trial) -> dict[str, float]:
    from wye.query.learning.training import train

    router = train(trial.train, "linear", seed=trial.seed)
    estimate = router.estimate(trial.test.texts).restrict(trial.test.model_names)
    eye = np.eye(trial.quality.shape[1])
    world = _World(trial.quality, estimate.quality, eye[estimate.quality.argmax(axis=1)])
    single = np.broadcast_to(eye[trial.best], trial.quality.shape)
    soft = np.exp((world.expected - world.expected.max(axis=1, keepdims=True)) / TEMPERATURE)
    laws = {
        "epsilon-greedy": _explored(single, EPSILON),
        "softmax": soft / soft.sum(axis=1, keepdims=True),
        "rare exploration": _explored(single, RARE),
    }
    figures = {"true value": world.value}
    generator = np.random.default_rng(trial.seed)
    for name, law in laws.items():
        figures |= {f"{k}, {name}": v for k, v in _logs(world, law, generator).items()}
    return figures


def _explored(greedy: Floats, epsilon: float) -> Floats:
    return np.asarray((1.0 - epsilon) * greedy + epsilon / greedy.shape[1], np.float64)


def _logs(world: _World, law: Floats, generator: np.random.Generator) -> dict[str, float]:
    """Coverage, width and scatter over logs drawn by `law`."""
    asked = generator.integers(len(law), size=(LOGS, ROWS))
    draws = generator.random((LOGS, ROWS, 1))
    last = law.shape[1] - 1
    chosen = np.minimum((draws > law[asked].cumsum(axis=-1)).sum(axis=-1), last)
    log = Logged(chosen, law[asked, chosen], law[asked])
    target, outcome = world.target[asked], world.quality[asked, chosen]
    # A question is in one fold, however often it was drawn.
    folds = generator.integers(FOLDS, size=len(law))
    direct = np.stack(
        [
            cross_fitted_direct(world.expected[a], c, o, folds[a])
            for a, c, o in zip(asked, chosen, outcome, strict=True)
        ]
    )
    found = {
        "IPS": ips(log, target, outcome, level=LEVEL),
        "SNIPS": snips(log, target, outcome, level=LEVEL),
        "DR": doubly_robust(log, target, outcome, direct, level=LEVEL),
    }
    scores = log.at_choice(target) / log.propensity * outcome
    normal = NORMAL_95 * scores.std(axis=1, ddof=1) / np.sqrt(ROWS)
    value = world.value
    figures = {"effective rows": float(implied_size(log, target).mean())}
    for name, estimated in found.items():
        figures[f"coverage of {name}"] = _coverage(estimated, value)
        figures[f"bias of {name}"] = float(np.nanmean(estimated.value) - value)
        figures[f"width of {name}"] = float(np.nanmedian(estimated.high - estimated.low))
    plain = Estimated(
        scores.mean(axis=1), scores.mean(axis=1) - normal, scores.mean(axis=1) + normal
    )
    figures["coverage of IPS, normal interval"] = _coverage(plain, value)
    figures["variance of DR / IPS"] = float(found["DR"].value.var() / found["IPS"].value.var())
    return figures


def _coverage(estimated: Estimated, value: float) -> float:
    return float(((estimated.low <= value) & (value <= estimated.high)).mean())
