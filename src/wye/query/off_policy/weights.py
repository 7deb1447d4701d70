"""Importance weights, and how much of a log speaks for another policy.

    w_i = pi(a_i | x_i) / p(a_i | x_i)

for a logged choice a_i of propensity p and a policy pi (Horvitz and Thompson 1952, Journal of the
American Statistical Association 47, 663-685).

Shape letters: Q rows, M models; axes before Q are samples of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.logged import ROUNDING, Floats, Logged


def weights(logged: Logged, target: Floats, *, max_weight: float | None = None) -> Floats:
    """`[..., Q]` how much more often the policy makes each logged choice than the log's did.

    Args:
        logged: the choices.
        target: `[..., Q, M]` probabilities of the policy to evaluate.
        max_weight: cap on a weight, at least 1; it trades variance for a bias towards what is left
            out. None for none.

    Raises:
        OffPolicyError: `target` is no `[Q, M]` of probabilities, or a cap below 1.
    """
    _check_target(logged, target)
    return _capped(logged.at_choice(target) / logged.propensity, max_weight)


def multipliers(logged: Logged, target: Floats, *, max_weight: float | None = None) -> Floats:
    """`[..., Q, M]` the weight that each model would have had; 0 where the law never chooses it.

    Raises:
        OffPolicyError: the log does not tell the law, or as `weights`.
    """
    _check_target(logged, target)
    if logged.law is None:
        raise OffPolicyError("the log tells no probabilities of the models that were not chosen")
    tried = logged.law > 0
    ratio = np.where(tried, target / np.where(tried, logged.law, 1.0), 0.0)
    return _capped(ratio, max_weight)


def effective_size(weight: ArrayLike) -> Floats:
    """(sum w)^2 / sum w^2 over the last axis: how many equally weighted rows weigh as much.

    0 where all weights are 0. Kish 1965, Survey Sampling, section 11.7.

    Example:
        >>> float(effective_size([1.0, 1.0, 0.0, 0.0])), float(effective_size([3.0, 1.0]))
        (2.0, 1.6)
    """
    w = np.asarray(weight, np.float64)
    squares = np.square(w).sum(axis=-1)
    size = np.square(w.sum(axis=-1)) / np.where(squares > 0, squares, 1.0)
    return np.asarray(size, np.float64)


def implied_size(logged: Logged, target: Floats, *, max_weight: float | None = None) -> Floats:
    """`[...]` the effective sample size that the probabilities lead to expect.

    Q (E w)^2 / E w^2 with both expectations over the law. The size within the sample can look large
    where the heavy rows happen to be absent from it; this one cannot. It is that within the sample
    where the log does not tell the law.

    Raises:
        OffPolicyError: as `weights`.
    """
    if logged.law is None:
        return effective_size(weights(logged, target, max_weight=max_weight))
    factor = multipliers(logged, target, max_weight=max_weight)
    first = (logged.law * factor).sum(axis=-1).mean(axis=-1)
    second = (logged.law * np.square(factor)).sum(axis=-1).mean(axis=-1)
    size = len(logged) * np.square(first) / np.where(second > 0, second, 1.0)
    return np.asarray(size, np.float64)


def supported_share(logged: Logged, target: Floats) -> Floats:
    """`[...]` share of the policy's choices that the logged policy could have made.

    Where the log does not tell the law, a certain choice is known to have had no alternative, and
    any other row is taken to have left every model a chance: an upper bound.

    Raises:
        OffPolicyError: as `weights`.
    """
    _check_target(logged, target)
    if logged.law is not None:
        tried = np.where(logged.law > 0, target, 0.0).sum(axis=-1)
    else:
        certain = logged.propensity >= 1.0 - ROUNDING
        tried = np.where(certain, logged.at_choice(target), target.sum(axis=-1))
    share: Floats = np.asarray(tried.sum(axis=-1) / target.sum(axis=-1).sum(axis=-1), np.float64)
    return share


def _check_target(logged: Logged, target: Floats) -> None:
    if target.ndim != logged.chosen.ndim + 1 or target.shape[:-1] != logged.chosen.shape:
        raise OffPolicyError(
            f"the policy's probabilities have shape {target.shape}, expected [Q, M] with "
            f"Q = {len(logged)}"
        )
    total = target.sum(axis=-1)
    if not (np.isfinite(target).all() and (target >= 0).all() and (total <= 1 + ROUNDING).all()):
        raise OffPolicyError("the policy's probabilities must be 0 or more and add up to 1")
    if not (total > 1.0 - ROUNDING).all():
        n = int((total <= 1.0 - ROUNDING).sum())
        raise OffPolicyError(
            f"the policy may abstain on {n} of {total.size} rows, and a log holds no outcome of an "
            "answer not given; evaluate on the rows where it answers, or give it a default"
        )


def _capped(ratio: NDArray[np.float64], max_weight: float | None) -> Floats:
    if max_weight is None:
        return ratio
    if not max_weight >= 1.0:
        raise OffPolicyError(f"max_weight={max_weight!r}, expected a cap of at least 1")
    return np.minimum(ratio, max_weight)
