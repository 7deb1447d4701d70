"""The best targets under equal load, by the dual of the integer programme.

BIP balancing (Sun 2025, arXiv 2502.15451). One batch of scores s poses
    maximise sum s x  subject to  sum_t x_st = k,  sum_s x_st <= quota_t,  x in {0, 1}.
With prices p_s (free, since every source gets exactly k) and q_t >= 0, its linear relaxation has
the dual
    D(p, q) = k sum p + sum quota q + sum max(0, s - p - q),
whose minimiser in one block, the other fixed, lies between two order statistics:
    p_s = (k+1)-th largest of s_s. - q,
    q_t = max(0, middle of the quota_t-th and the (quota_t + 1)-th largest of s_.t - p).
The paper takes the lower end for q too; there the marginal source of every target is left without
a preference, which matters in small batches. The choice is the top k of s - q. A choice by
prices is nearly, not exactly, within the quota; `wye.core.assignment` is exact and slower.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import math

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.plan import Plan
from wye.core.selection.inputs import check_k, check_scores, masked, refuse_nan
from wye.core.selection.top_k import choose
from wye.core.weights import Weighting


def dual_prices(
    scores: Array,
    k: int = 1,
    *,
    quota: int | Array | None = None,
    rounds: int = 8,
    start: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Prices q `[T]` at which the top k of `scores - q` are balanced; no gradient.

    Args:
        scores: `[S, T]`; -inf forbids a pair.
        k: choices per source.
        quota: most sources a target should get, an integer or integers `[T]`; ceil(k S / T) when
            not given.
        rounds: of coordinate descent; the paper uses 2 to 14.
        start: `[T]` prices to start from, those of the last batch for instance; zeros when not
            given.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.

    Raises:
        SelectionError: k, quota or rounds out of range, shapes that do not match.
    """
    n_sources, n_targets = check_scores(scores)
    check_k(k, n_targets)
    if rounds < 0:
        raise SelectionError(f"rounds={rounds}, expected at least 0")
    xp = namespace(scores)
    plain = arrays.detach(masked(scores, allowed))
    price = xp.zeros_like(scores[:1, :]) if n_sources else xp.zeros_like(xp.sum(scores, axis=0))
    price = xp.reshape(arrays.detach(price), (n_targets,))
    if start is not None:
        if tuple(start.shape) != (n_targets,):
            raise SelectionError(f"start has shape {tuple(start.shape)}, expected [T={n_targets}]")
        price = xp.astype(arrays.detach(start), price.dtype)
    if n_sources == 0:
        return price
    limit = quota_limits(quota, k, n_sources, n_targets)
    for _ in range(rounds):
        paid = arrays.kth_largest(plain - price, min(k + 1, n_targets), axis=1)
        paid = xp.where(xp.isfinite(paid), paid, xp.zeros_like(paid))
        price = _order_statistic(plain - paid[:, None], limit)
        price = xp.where(price > 0, price, xp.zeros_like(price))
    return price


def balanced(
    scores: Array,
    k: int = 1,
    *,
    quota: int | Array | None = None,
    rounds: int = 8,
    start: Array | None = None,
    allowed: Array | None = None,
    weight: Weighting = "score",
    check: bool = True,
) -> Plan:
    """Send every source to `k` targets, the best at prices that balance this batch.

    Weights are the original scores, never those less the price. The choice for one source depends
    on the batch: for training and for planning whole batches, not for one request at a time. Pairs
    come source by source, best first; shapes depend on S and k alone.

    Ties: the lower target index first; sources with identical rows stay together, since no price
    can part them. NaN: an error; undefined with `check=False`. No sources: an empty plan.

    Args:
        scores: `[S, T]`; -inf forbids a pair.
        k: choices per source, 1 to T.
        quota, rounds, start: as in `dual_prices`.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`.
        check: as in `top_k`.

    Raises:
        SelectionError: as `dual_prices` and `top_k`.

    Example:
        >>> import numpy as np
        >>> balanced(np.array([[0.9, 0.5], [0.8, 0.1]])).target.tolist()
        [1, 0]
    """
    open_scores = masked(scores, allowed)
    if check:
        refuse_nan(open_scores)
    price = dual_prices(open_scores, k, quota=quota, rounds=rounds, start=start)
    ranked = arrays.detach(open_scores) - price
    return choose(ranked, open_scores, k, weight=weight, check=check)


def dual_bound(
    scores: Array, price: Array, k: int = 1, *, quota: int | Array | None = None
) -> float:
    """D(p, q) at prices `q` and the best p: no plan within the quota scores more in total.

    Args:
        scores: `[S, T]` finite.
        price: `[T]`, >= 0.
        k: choices per source.
        quota: as in `dual_prices`.
    """
    n_sources, n_targets = check_scores(scores)
    if n_sources == 0:
        return 0.0
    xp = namespace(scores)
    limit = quota_limits(quota, k, n_sources, n_targets)
    # For fixed q the best p leaves exactly the k best reduced scores of every source.
    best = xp.sort(scores - price, axis=1)[:, n_targets - k :]
    quotas = sum(c * float(price[t]) for t, c in enumerate(limit) if c > 0)
    return float(xp.sum(best)) + quotas


def quota_limits(quota: int | Array | None, k: int, n_sources: int, n_targets: int) -> list[int]:
    """The quota of every target as integers, checked to leave room for all pairs."""
    if quota is None:
        limit = [math.ceil(k * n_sources / n_targets)] * n_targets
    elif isinstance(quota, int):
        limit = [quota] * n_targets
    else:
        limit = [int(c) for c in arrays.to_numpy(quota)]
    if len(limit) != n_targets or min(limit) < 0:
        raise SelectionError(f"quota={quota!r}, expected integers >= 0, one or [T={n_targets}]")
    if sum(min(c, n_sources) for c in limit) < k * n_sources:
        raise SelectionError(
            f"quota of {sum(limit)} places in all is below the {k * n_sources} pairs that "
            f"{n_sources} sources with k={k} need: raise it or lower k"
        )
    return limit


def _order_statistic(x: Array, limit: list[int]) -> Array:
    """Per column the middle between the limit-th and the next largest entry."""
    xp = namespace(x)
    if len(set(limit)) == 1:
        return _middle(x, limit[0])
    return xp.concat([_middle(x[:, t : t + 1], c) for t, c in enumerate(limit)])


def _middle(x: Array, limit: int) -> Array:
    xp = namespace(x)
    if limit == 0:
        return xp.full_like(x[0, :], float("inf"))
    if limit >= x.shape[0]:
        return xp.full_like(x[0, :], -float("inf"))
    above = arrays.kth_largest(x, limit, axis=0)
    below = arrays.kth_largest(x, limit + 1, axis=0)
    return 0.5 * (above + below)
