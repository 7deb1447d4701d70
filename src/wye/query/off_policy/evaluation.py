"""One policy on one log and one outcome: every estimate, and whether the log can speak for it.

Refused are logs whose weights cannot be right and policies that the log never tried: an estimate
would be a number all the same, and a wrong one. With a law, the probabilities themselves are
checked (`Logged`); without one, the weights must average to the share that the log supports.

Shape letters: Q rows, M models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.estimators import difference, doubly_robust, ips, mean_outcome, snips
from wye.query.off_policy.intervals import UNBOUNDED, Bounds, Estimated, sample_variance, within
from wye.query.off_policy.logged import Floats, Logged
from wye.query.off_policy.weights import (
    effective_size,
    implied_size,
    supported_share,
    weights,
)

LEAST_EFFECTIVE = 100.0
MOST_UNSUPPORTED = 0.01
# A deviation of five standard errors comes once in a million logs.
_SIGMAS = 5.0


@dataclass(frozen=True)
class Evaluation:
    """What a log says of a policy on one outcome.

    Attributes:
        rows: logged choices with a known outcome.
        logged: the logged policy's own mean.
        ips, snips: estimates of the policy's value.
        doubly_robust: None without a direct method.
        difference: the policy's value less the logged policy's, doubly robust where it can be.
        effective: effective sample size within the sample.
        implied: effective sample size that the logged probabilities lead to expect.
        mean_weight: average weight; 1 is expected.
        supported: share of the policy's choices that the logged policy could have made.
        level: nominal coverage of every interval.
        warnings: sentences on what weakens the figures.
    """

    rows: int
    logged: Estimated
    ips: Estimated
    snips: Estimated
    doubly_robust: Estimated | None
    difference: Estimated
    effective: float
    implied: float
    mean_weight: float
    supported: float
    level: float
    warnings: tuple[str, ...]

    @property
    def best(self) -> Estimated:
        """The estimate to go by: doubly robust where there is one, else self-normalised."""
        return self.snips if self.doubly_robust is None else self.doubly_robust

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form; what is not known is None."""
        named = ("logged", "ips", "snips", "doubly_robust", "difference")
        return {
            "rows": self.rows,
            **{name: _told(getattr(self, name)) for name in named},
            "effective_sample_size": self.effective,
            "expected_effective_sample_size": self.implied,
            "mean_weight": self.mean_weight,
            "supported_share": self.supported,
            "level": self.level,
            "warnings": list(self.warnings),
        }


def evaluate(
    logged: Logged,
    target: Floats,
    outcome: Floats,
    *,
    direct: Floats | None = None,
    bounds: Bounds = UNBOUNDED,
    level: float = 0.95,
    max_weight: float | None = None,
    least_effective: float = LEAST_EFFECTIVE,
    most_unsupported: float = MOST_UNSUPPORTED,
) -> Evaluation:
    """Every estimate of a policy's value on one log.

    Args:
        logged: Q choices with their probabilities.
        target: `[Q, M]` probabilities of the policy to evaluate.
        outcome: `[Q]` what came of each choice.
        direct: `[Q, M]` expected outcomes for the doubly robust estimate; see `doubly_robust`.
        bounds: least and largest possible value of the outcome.
        level: nominal coverage of the intervals.
        max_weight: cap on a weight (a stated bias for less scatter); None for none.
        least_effective: effective sample size below which a warning stands.
        most_unsupported: share of the policy's choices without support up to which the figures are
            given, with a warning.

    Raises:
        OffPolicyError: the policy's choices have no support in the log, the weights do not average
            to what they must, or as the estimators raise.

    Example:
        >>> log = Logged.of([0, 1], [0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]])
        >>> found = evaluate(log, np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0.0, 1.0]))
        >>> float(found.snips.value), found.effective
        (0.5, 2.0)
    """
    uncapped = weights(logged, target)
    supported = float(supported_share(logged, target))
    _check_support(logged, uncapped, supported, most_unsupported)
    w = weights(logged, target, max_weight=max_weight)
    effective = float(effective_size(w))
    implied = float(implied_size(logged, target, max_weight=max_weight))
    options: dict[str, Any] = {"level": level, "max_weight": max_weight}
    found = {
        "ips": ips(logged, target, outcome, **options),
        "snips": snips(logged, target, outcome, **options),
        "difference": difference(logged, target, outcome, direct, **options),
    }
    if direct is not None:
        found["robust"] = doubly_robust(logged, target, outcome, direct, **options)
    reach = (1.0 - supported) * _range(outcome, bounds)
    wide = {name: _widened(estimated, reach) for name, estimated in found.items()}
    return Evaluation(
        rows=len(logged),
        logged=mean_outcome(outcome, level=level, bounds=bounds),
        ips=within(wide["ips"], bounds),
        snips=within(wide["snips"], bounds),
        doubly_robust=within(wide["robust"], bounds) if direct is not None else None,
        difference=wide["difference"],
        effective=effective,
        implied=implied,
        mean_weight=float(w.mean()),
        supported=supported,
        level=level,
        warnings=tuple(
            _warnings(logged, uncapped, supported, min(effective, implied), max_weight,
                      least_effective)
        ),
    )  # fmt: skip


def _range(outcome: Floats, bounds: Bounds) -> float:
    """How far apart two outcomes can lie; as far as they were seen to where no bound says."""
    seen = (float(outcome.min()), float(outcome.max()))
    low, high = (b if math.isfinite(b) else s for b, s in zip(bounds, seen, strict=True))
    return high - low


def _widened(estimated: Estimated, reach: float) -> Estimated:
    """The interval, with room for what choices without support could be worth."""
    return Estimated(
        estimated.value,
        np.asarray(estimated.low - reach),
        np.asarray(estimated.high + reach),
    )


def _check_support(
    logged: Logged, weight: Floats, supported: float, most_unsupported: float
) -> None:
    lost = 1.0 - supported
    if lost > most_unsupported:
        why = (
            "the logged policy never drew (every propensity is 1), so nothing else was tried"
            if logged.deterministic
            else "the logged policy gave them no chance there"
        )
        raise OffPolicyError(
            f"{_share(lost)} of the policy's choices have no support in the log's {len(logged)} "
            f"rows: {why}. Let the gateway explore (explore:epsilon=0.05,inner=...) and replay "
            f"what it logs then; up to {_share(most_unsupported)} is tolerated"
        )
    if not weight.any():
        raise OffPolicyError(
            f"none of the {len(logged)} logged choices is one that the policy would make; log more "
            "traffic, or explore more"
        )
    if logged.law is not None:
        return
    error = math.sqrt(float(sample_variance(weight)) / len(logged)) if len(logged) > 1 else math.inf
    mean = float(weight.mean())
    if abs(mean - supported) > _SIGMAS * error + 1e-6:
        raise OffPolicyError(
            f"the weights average {mean:.3f} (give or take {error:.3f}), where they must average "
            f"{supported:.3f}: the propensities are not those of the choices that were really "
            "made, or the policy chooses what the logged one never tries, or the outcome is known "
            "of some targets far more often than of others"
        )


def _warnings(
    logged: Logged,
    weight: Floats,
    supported: float,
    effective: float,
    max_weight: float | None,
    least_effective: float,
) -> list[str]:
    said = []
    if effective < least_effective:
        said.append(
            f"the {len(logged)} rows are worth {effective:.0f} for this policy (effective sample "
            f"size), fewer than {least_effective:.0f}: read the intervals, not the values"
        )
    if supported < 1.0 - 1e-9:
        said.append(
            f"{_share(1.0 - supported)} of the policy's choices have no support in the log; the "
            "intervals have room for whatever those are worth"
        )
    if logged.law is None and not logged.deterministic:
        said.append(
            "the log tells no probabilities of the targets that were not chosen, so the intervals "
            "rest on the sample alone and may be too narrow"
        )
    if max_weight is not None and (weight > max_weight).any():
        held = float(np.minimum(weight, max_weight).sum() / weight.sum())
        said.append(
            f"{_share(float((weight > max_weight).mean()))} of the weights are capped at "
            f"{max_weight:g}, which leaves {_share(held)} of the total: the figures are biased"
        )
    return said


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{100 * value:.2g}%"


def _told(estimated: Estimated | None) -> dict[str, float | None] | None:
    if estimated is None:
        return None
    return {
        name: float(part) if math.isfinite(part) else None
        for name, part in zip(estimated._fields, estimated, strict=True)
    }
