"""Confidence intervals of importance-weighted means.

Most rows weigh nothing and a few a hundredfold, so the usual interval, mean +- z s / sqrt(Q) with
the sample's own s, fails just where it matters: a sample that lacks the heavy rows has a small mean
and a small s together. Measured by `wye check off-policy`. The bootstrap, studentised or not, and
corrections for skewness (Hall 1992) draw on the same sample and fail with it; an empirical
Bernstein bound (Maurer and Pontil 2009) holds, but needs a bound on cost and latency and is several
times wider.

What was not chosen in the sample is known all the same where the log tells the probabilities: then
the second moment of the weights is known without luck,

    E[w^2 e^2] = mean_i sum_m p(m | x_i) (pi(m | x_i) / p(m | x_i))^2 E[e^2 | m],

with E[e^2 | m] the mean square of the figure (or residual) e over all rows on which model m was
chosen, whatever the policy thinks of them. The interval takes the larger of this variance and the
sample's, and Student's t with as many degrees of freedom as there are effective rows (Kish 1965),
less one. It leans on E[e^2 | m] only to widen, and is wider than needed where rows on which a model
was chosen vary more than those on which the policy wants it. Rows are taken to be independent:
repeated questions and long conversations make it too narrow.

Shape letters: Q rows, M models; axes before Q are samples of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.logged import Floats, Logged

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)


class Estimated(NamedTuple):
    """A value and the ends of its interval, `[...]` each; NaN where they cannot be told."""

    value: Floats
    low: Floats
    high: Floats


def student(
    value: Floats, variance: Floats, rows: int, effective: Floats, level: float
) -> Estimated:
    """value +- t sqrt(variance / rows); an interval of no width at all is not known (NaN).

    Args:
        value: `[...]` the estimate.
        variance: `[...]` of one row.
        rows: Q.
        effective: `[...]` effective rows.
        level: nominal coverage, inside (0, 1).

    Raises:
        OffPolicyError: a level outside of (0, 1).
    """
    # The submodule, since importing all of scipy.stats takes most of a second.
    from scipy.special import stdtrit

    if not 0.0 < level < 1.0:
        raise OffPolicyError(f"level={level!r}, expected a coverage inside (0, 1), as 0.95")
    freedom = np.maximum(effective - 1.0, 1.0)
    reach = stdtrit(freedom, 0.5 + level / 2.0) * np.sqrt(variance / rows)
    told = reach > 0
    reach = np.where(told, reach, np.nan)
    return Estimated(np.asarray(value), np.asarray(value - reach), np.asarray(value + reach))


def sample_variance(values: Floats) -> Floats:
    """`[...]` variance over the last axis, from Q - 1 of Q rows; NaN for a single row."""
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    centred = values - values.mean(axis=-1, keepdims=True)
    found = np.square(centred).sum(axis=-1) / (n - 1)
    # What rounding leaves of equal values is no spread.
    least = np.square(np.abs(values).max(axis=-1) * 1e-12)
    return np.asarray(np.where(found > least, found, 0.0), np.float64)


def implied_variance(logged: Logged, multiplier: Floats, figure: Floats, centre: Floats) -> Floats:
    """`[...]` variance of multiplier x figure at the choices, as the law implies it.

    Args:
        logged: with its law.
        multiplier: `[..., Q, M]` what the figure of each model would be multiplied with.
        figure: `[..., Q]` of the choices.
        centre: `[...]` mean of the product.
    """
    law = logged.law
    if law is None:
        raise OffPolicyError("the log tells no probabilities of the models that were not chosen")
    squares = np.square(figure)
    taken = logged.chosen[..., None] == np.arange(law.shape[-1])
    # One row of the mean over all models stands in for a model that was hardly ever chosen.
    second = ((taken * squares[..., None]).sum(axis=-2) + squares.mean(axis=-1)[..., None]) / (
        taken.sum(axis=-2) + 1
    )
    load = (law * np.square(multiplier)).mean(axis=-2)
    return np.asarray(np.maximum((load * second).sum(axis=-1) - np.square(centre), 0.0), np.float64)


def within(estimated: Estimated, bounds: Bounds) -> Estimated:
    """The same value, its interval cut to what is possible at all."""
    low, high = bounds
    return Estimated(
        estimated.value,
        np.asarray(np.clip(estimated.low, low, high)),
        np.asarray(np.clip(estimated.high, low, high)),
    )
