"""The value of a policy from another one's choices: IPS, self-normalised IPS, doubly robust.

With w_i = pi(a_i | x_i) / p(a_i | x_i), outcome r_i of the choice, and a direct method q(x, m):

    IPS    V = 1/Q sum_i w_i r_i
    SNIPS  V = sum_i w_i r_i / sum_i w_i
    DR     V = 1/Q sum_i [ sum_m pi(m | x_i) q(x_i, m) + w_i (r_i - q(x_i, a_i)) ]

IPS: Horvitz and Thompson 1952; unbiased. SNIPS: Swaminathan and Joachims 2015 (NeurIPS, equation
9); within the range of the outcomes, little biased, and far less scattered where outcomes lie away
from 0. DR: Dudik, Langford and Li 2011 (arXiv 1103.4601, equation 1); unbiased whatever q says, and
scattered the less the better q is, as long as q was not learned from r_i. Intervals: `intervals`.

Shape letters: Q rows, M models; axes before Q are samples of their own.
"""

from __future__ import annotations

import numpy as np

from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.intervals import (
    UNBOUNDED,
    Bounds,
    Estimated,
    implied_variance,
    sample_variance,
    student,
    within,
)
from wye.query.off_policy.logged import Floats, Logged
from wye.query.off_policy.weights import implied_size, multipliers, weights


def ips(
    logged: Logged,
    target: Floats,
    outcome: Floats,
    *,
    level: float = 0.95,
    max_weight: float | None = None,
    bounds: Bounds = UNBOUNDED,
) -> Estimated:
    """Inverse propensity scoring.

    Args:
        logged: Q choices.
        target: `[..., Q, M]` probabilities of the policy to evaluate.
        outcome: `[..., Q]` what came of each choice.
        level: nominal coverage of the interval.
        max_weight: cap on a weight, at least 1: less scatter for some bias; None for none.
        bounds: least and largest possible value.

    Raises:
        OffPolicyError: shapes or probabilities are wrong, or an outcome is unknown.

    Example:
        >>> log = Logged.of([0, 1], [0.5, 0.5])
        >>> float(ips(log, np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0.6, 1.0])).value)
        0.6
    """
    _check_outcome(logged, outcome)
    w = weights(logged, target, max_weight=max_weight)
    value = (w * outcome).mean(axis=-1)
    factor = _factors(logged, target, max_weight)
    variance = _variance(logged, w * outcome, np.zeros_like(w), factor, outcome)
    size = implied_size(logged, target, max_weight=max_weight)
    return within(student(value, variance, len(logged), size, level), bounds)


def snips(
    logged: Logged,
    target: Floats,
    outcome: Floats,
    *,
    level: float = 0.95,
    max_weight: float | None = None,
    bounds: Bounds = UNBOUNDED,
) -> Estimated:
    """Self-normalised inverse propensity scoring; NaN where no row has weight.

    Arguments and errors as of `ips`. The interval is that of the linearised ratio.
    """
    _check_outcome(logged, outcome)
    w = weights(logged, target, max_weight=max_weight)
    mean = w.mean(axis=-1)
    mean = np.where(mean > 0, mean, np.nan)
    value = (w * outcome).mean(axis=-1) / mean
    residual = outcome - value[..., None]
    factor = _factors(logged, target, max_weight)
    scores = w * residual / mean[..., None]
    variance = _variance(logged, scores, np.zeros_like(w), factor, residual)
    size = implied_size(logged, target, max_weight=max_weight)
    return within(student(value, variance, len(logged), size, level), bounds)


def doubly_robust(
    logged: Logged,
    target: Floats,
    outcome: Floats,
    direct: Floats,
    *,
    level: float = 0.95,
    max_weight: float | None = None,
    bounds: Bounds = UNBOUNDED,
) -> Estimated:
    """Doubly robust: the direct method, corrected by the weighted residuals of the choices.

    Args:
        direct: `[..., Q, M]` expected outcome of every model, learned without this log's outcomes,
            or cross-fitted (`cross_fitted_direct`).
        logged, target, outcome, level, max_weight, bounds: as of `ips`.

    Raises:
        OffPolicyError: as `ips`, or `direct` is not known everywhere.
    """
    _check_outcome(logged, outcome)
    _check_direct(target, direct)
    w = weights(logged, target, max_weight=max_weight)
    base = (target * direct).sum(axis=-1)
    residual = outcome - logged.at_choice(direct)
    scores = base + w * residual
    factor = _factors(logged, target, max_weight)
    variance = _variance(logged, scores, base, factor, residual)
    size = implied_size(logged, target, max_weight=max_weight)
    return within(student(scores.mean(axis=-1), variance, len(logged), size, level), bounds)


def difference(
    logged: Logged,
    target: Floats,
    outcome: Floats,
    direct: Floats | None = None,
    *,
    level: float = 0.95,
    max_weight: float | None = None,
) -> Estimated:
    """Value of the policy less that of the logged one, on the same rows.

    Doubly robust on both sides where `direct` and the law are known; else the scores of `ips` (or
    `doubly_robust`) less the outcomes. Arguments and errors as of `doubly_robust`.
    """
    _check_outcome(logged, outcome)
    if direct is not None:
        _check_direct(target, direct)
    w = weights(logged, target, max_weight=max_weight)
    guess = np.zeros_like(target) if direct is None else direct
    residual = outcome - logged.at_choice(guess)
    size = implied_size(logged, target, max_weight=max_weight)
    if logged.law is None:
        scores = (target * guess).sum(axis=-1) + w * residual - outcome
        variance = sample_variance(scores)
    else:
        base = ((target - logged.law) * guess).sum(axis=-1)
        scores = base + (w - 1.0) * residual
        factor = multipliers(logged, target, max_weight=max_weight) - 1.0
        variance = _variance(logged, scores, base, factor, residual)
    return student(scores.mean(axis=-1), variance, len(logged), size, level)


def mean_outcome(outcome: Floats, *, level: float = 0.95, bounds: Bounds = UNBOUNDED) -> Estimated:
    """The logged policy's own value: the mean of the outcomes, with Student's interval."""
    rows = outcome.shape[-1]
    mean = outcome.mean(axis=-1)
    size = np.full(mean.shape, float(rows))
    return within(student(mean, sample_variance(outcome), rows, size, level), bounds)


def _factors(logged: Logged, target: Floats, max_weight: float | None) -> Floats | None:
    return None if logged.law is None else multipliers(logged, target, max_weight=max_weight)


def _variance(
    logged: Logged, scores: Floats, base: Floats, factor: Floats | None, figure: Floats
) -> Floats:
    """The larger of the scores' variance and what the law implies of base + factor x figure."""
    seen = sample_variance(scores)
    if factor is None:
        return seen
    centre = (logged.at_choice(factor) * figure).mean(axis=-1)
    implied = base.var(axis=-1) + implied_variance(logged, factor, figure, centre)
    return np.asarray(np.fmax(seen, implied), np.float64)


def _check_outcome(logged: Logged, outcome: Floats) -> None:
    if outcome.shape != logged.chosen.shape:
        raise OffPolicyError(
            f"outcome has shape {outcome.shape}, expected that of the choices, "
            f"{logged.chosen.shape}"
        )
    if not np.isfinite(outcome).all():
        n = int((~np.isfinite(outcome)).sum())
        raise OffPolicyError(f"{n} of {outcome.size} outcomes are unknown; leave those rows out")


def _check_direct(target: Floats, direct: Floats) -> None:
    if direct.shape != target.shape:
        raise OffPolicyError(
            f"direct has shape {direct.shape}, expected [Q, M] as the policy's probabilities have, "
            f"{target.shape}"
        )
    if not np.isfinite(direct).all():
        raise OffPolicyError(
            "direct holds unknown figures; let cross_fitted_direct fill them from the log, or use "
            "snips"
        )
