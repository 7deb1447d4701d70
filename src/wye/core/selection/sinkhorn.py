"""Targets read off an entropic transport plan with prescribed load.

Sinkhorn-Knopp in the log domain (Cuturi 2013, arXiv 1306.0895), as in S-BASE (Clark et al. 2022,
arXiv 2202.01169) and selective Sinkhorn routing (arXiv 2511.08972, equations 3 to 6):
    Pi = argmax <Pi, C> - epsilon <Pi, log Pi>  subject to  rows sum to 1, column t sums to quota_t.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_scores, masked, refuse_nan
from wye.core.selection.top_k import choose
from wye.core.weights import Weighting


def transport(
    scores: Array,
    *,
    epsilon: float = 0.05,
    quota: Array | None = None,
    rounds: int = 100,
    tolerance: float | None = 1e-4,
    allowed: Array | None = None,
) -> Array:
    """The transport plan Pi `[S, T]`: every row sums to 1, columns to their quota.

    The last step fits the rows, so that their sums are exact and the columns hold to `tolerance`
    where the rounds suffice. The potentials carry no gradient; Pi does, through the scores at fixed
    potentials (exact for the entropic objective, by the envelope theorem).

    Args:
        scores: `[S, T]` finite compatibilities; -inf forbids a pair.
        epsilon: weight of the entropy, > 0, in the unit of scores; small is sharp and slow.
        quota: `[T]` numbers >= 0, mass of each column, scaled to sum to S; equal when not given.
        rounds: limit on row and column updates.
        tolerance: stop when the column sums are this near their quota (Euclidean norm, relative to
            the norm of the quota). None runs all rounds without reading the data, which compiles.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.

    Raises:
        SelectionError: epsilon or rounds not positive, a quota of the wrong shape.
    """
    found = transport_potentials(
        scores, epsilon=epsilon, quota=quota, rounds=rounds, tolerance=tolerance, allowed=allowed
    )
    return found.mass(masked(scores, allowed))


class Potentials(NamedTuple):
    """What scales exp(scores / epsilon) to the wanted marginals, and how well it does.

    Attributes:
        row: `[S, 1]`, logarithms.
        column: `[1, T]`, logarithms.
        epsilon: weight of the entropy.
        rounds: row and column updates made.
        residual: Euclidean norm of the column sums less their quota, over the norm of the quota;
            NaN where no tolerance asked for it.
    """

    row: Array
    column: Array
    epsilon: float
    rounds: int
    residual: float

    def mass(self, scores: Array) -> Array:
        """The transport plan `[S, T]`; gradients flow through `scores`."""
        xp = namespace(scores)
        return xp.exp(scores / self.epsilon + self.row + self.column)


def transport_potentials(
    scores: Array,
    *,
    epsilon: float = 0.05,
    quota: Array | None = None,
    rounds: int = 100,
    tolerance: float | None = 1e-4,
    allowed: Array | None = None,
    unroll: bool = False,
) -> Potentials:
    """The potentials behind `transport`, with the number of rounds and the residual.

    Args:
        scores, epsilon, quota, rounds, tolerance, allowed: as in `transport`.
        unroll: let gradients flow through the iterations, where the array has them.

    Raises:
        SelectionError: as `transport`.
    """
    n_sources, n_targets = check_scores(scores)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise SelectionError(f"epsilon={epsilon}, expected a finite number > 0")
    if rounds < 1:
        raise SelectionError(f"rounds={rounds}, expected at least 1")
    xp = namespace(scores)
    open_scores = masked(scores, allowed)
    plain = open_scores if unroll else arrays.detach(open_scores)
    kernel = plain / epsilon
    row = xp.zeros_like(kernel[:, :1])
    if n_sources == 0:
        return Potentials(row, xp.sum(kernel, axis=0, keepdims=True), epsilon, 0, 0.0)
    log_quota = _log_quota(quota, kernel, n_sources, n_targets)
    wanted = xp.exp(log_quota)
    size = max(float(xp.sum(wanted**2)) ** 0.5, 1e-30) if tolerance is not None else 1.0
    column = xp.zeros_like(kernel[:1, :])
    done, residual = 0, float("nan")
    for _ in range(rounds):
        column = log_quota - _finite(arrays.log_sum_exp(kernel + row, axis=0))
        row = -_finite(arrays.log_sum_exp(kernel + column, axis=1))
        done += 1
        if tolerance is not None:
            mass = arrays.detach(xp.exp(kernel + row + column))
            miss = xp.sum(mass, axis=0, keepdims=True) - wanted
            residual = float(xp.sum(miss**2)) ** 0.5 / size
            if residual <= tolerance:
                break
    return Potentials(row, column, epsilon, done, residual)


def sinkhorn(
    scores: Array,
    k: int = 1,
    *,
    epsilon: float = 0.05,
    quota: Array | None = None,
    rounds: int = 100,
    tolerance: float | None = 1e-4,
    allowed: Array | None = None,
    weight: Weighting = "score",
    check: bool = True,
) -> Plan:
    """Send every source to the `k` targets that hold most of its transported mass.

    Balanced is the mass, not the choice: with k targets per source the load comes near the quota
    and need not meet it. For gates from the router's own scores use `wye.core.weigh`. Pairs come
    source by source, best first.

    Ties: the lower target index first. NaN: an error; undefined with `check=False`. No sources: an
    empty plan.

    Args:
        scores: `[S, T]` finite compatibilities; -inf forbids a pair.
        k: choices per source, 1 to T.
        epsilon, quota, rounds, tolerance: as in `transport`.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`, of the transport plan: "share" divides the mass of the chosen.
        check: read the values to refuse NaN and short sources. Pass False, with `tolerance=None`,
            to trace under `torch.compile` in one graph.

    Raises:
        SelectionError: as `transport` and `top_k`.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.9, 0.8], [0.9, 0.1]])
        >>> sinkhorn(scores, epsilon=0.01).target.tolist()
        [1, 0]
    """
    xp = namespace(scores)
    open_scores = masked(scores, allowed)
    if check:
        refuse_nan(open_scores)
        if bool(xp.any(open_scores == float("inf"))):
            raise SelectionError("scores hold +inf, which no transport plan can weigh")
    mass = transport(open_scores, epsilon=epsilon, quota=quota, rounds=rounds, tolerance=tolerance)
    shut = xp.full_like(mass, -float("inf"))
    mass = xp.where(open_scores == -float("inf"), shut, mass)
    return choose(mass, mass, k, weight=weight, check=check)


def _log_quota(quota: Array | None, kernel: Array, n_sources: int, n_targets: int) -> Array:
    xp = namespace(kernel)
    if quota is None:
        return xp.full_like(kernel[:1, :], math.log(n_sources / n_targets))
    if tuple(quota.shape) != (n_targets,):
        raise SelectionError(f"quota has shape {tuple(quota.shape)}, expected [T={n_targets}]")
    share = xp.astype(quota, kernel.dtype)
    share = share * (n_sources / xp.sum(share))
    floor = xp.where(share > 0, share, xp.ones_like(share))
    return xp.where(share > 0, xp.log(floor), xp.full_like(share, -float("inf")))[None, :]


def _finite(potential: Array) -> Array:
    """A row or column in which everything is forbidden has no potential."""
    xp = namespace(potential)
    return xp.where(xp.isfinite(potential), potential, xp.zeros_like(potential))
