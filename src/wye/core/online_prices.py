"""Prices that balance a stream: sources arrive a few at a time and are chosen for at once.

The online variants of BIP balancing (Sun 2025, arXiv 2502.15451). With the prices q of the moment a
source s pays
    p_s = max(0, (k+1)-th largest of s_s. - q),
chooses the top k of s_s. - q, and leaves the values s_st - p_s behind. The price of target t is the
(quota_t + 1)-th largest of the values that the last N sources left, or 0 where that is negative;
quota_t = k N / T. `window_prices` reads it off those N values per target,
`histogram_prices` off their counts in B equal bins of [0, 1].

The paper bounds the buffer by the quota and starts a new one with every window. Here the window
slides: the values of the last N sources are kept, and a histogram forgets by a factor of
exp(-1/N) per source. B and N are not stated in the paper; 128 and 4096 are ours.

Shape letters: S sources, T targets, N window, B bins.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError, namespace
from wye.core.selection.inputs import check_k, check_scores, refuse_nan


def left_values(scores: Array, price: Array, k: int) -> Array:
    """What sources leave behind, s_st - p_s `[S, T]`, at prices `[T]`; no gradient.

    Raises:
        SelectionError: wrong shapes, NaN, k out of range.
    """
    _, n_targets = check_scores(scores)
    check_k(k, n_targets)
    plain = arrays.detach(scores)
    refuse_nan(plain)
    if plain.shape[0] == 0:
        return plain
    xp = namespace(plain)
    paid = arrays.kth_largest(plain - price, min(k + 1, n_targets), axis=1)
    paid = xp.where(paid > 0, paid, xp.zeros_like(paid))
    return plain - paid[:, None]


def window_prices(values: Array, share: float | Array) -> Array:
    """Prices `[T]` from the values `[N, T]` of a window.

    Args:
        values: one row per source of the window.
        share: sources per target over sources, k / T when the load is equal; a number or `[T]`.

    Raises:
        SelectionError: a share that is negative.
    """
    n, n_targets = check_scores(values)
    ranks = [min(math.ceil(c * n - 1e-9), n) for c in _shares(share, n_targets)]
    xp = namespace(values)
    zero = xp.zeros_like(xp.sum(values, axis=0))
    if n == 0:
        return zero
    if len(set(ranks)) == 1:
        price = zero if ranks[0] >= n else arrays.kth_largest(values, ranks[0] + 1, axis=0)
    else:
        each = [
            zero[t : t + 1] if r >= n else arrays.kth_largest(values[:, t : t + 1], r + 1, axis=0)
            for t, r in enumerate(ranks)
        ]
        price = xp.concat(each)
    return xp.where(price > 0, price, zero)


def fold(counts: Array, values: Array, *, window: int) -> Array:
    """Histograms `[T, B]` of the values left behind, after those of S more sources.

    Values below 0 are in no bin, since no price is negative; those above 1 are in the last.

    Args:
        counts: `[T, B]` before.
        values: `[S, T]`.
        window: N; older counts are multiplied by exp(-1/N) per source.

    Raises:
        SelectionError: shapes that do not match, a window below 1.
    """
    n, n_targets = check_scores(values)
    if len(counts.shape) != 2 or counts.shape[0] != n_targets:
        raise SelectionError(
            f"counts have shape {tuple(counts.shape)}, expected [T={n_targets}, B]"
        )
    if window < 1:
        raise SelectionError(f"window={window}, expected at least 1")
    if n == 0:
        return counts
    xp = namespace(values)
    bins = int(counts.shape[1])
    place = xp.astype(xp.clip(values, -1.0, 1.0) * bins, xp.int64)
    place = xp.where(place >= bins, bins - 1, place)
    offset = arrays.arange(n_targets, place)[None, :] * bins
    age = xp.astype(n - 1 - arrays.arange(n, place), values.dtype)
    weight = xp.where(values >= 0, xp.exp(-age / window)[:, None], xp.zeros_like(values))
    cell = xp.reshape(xp.where(values >= 0, place + offset, offset), (-1,))
    fresh = arrays.segment_sum(xp.reshape(weight, (-1,)), cell, n_targets * bins)
    kept = counts * math.exp(-n / window)
    return kept + xp.astype(xp.reshape(fresh, (n_targets, bins)), counts.dtype)


def histogram_prices(counts: Array, total: float, share: float | Array) -> Array:
    """Prices `[T]` from histograms `[T, B]`, interpolated within a bin.

    Args:
        counts: as `fold` returns them.
        total: weight of all sources behind them, values below 0 included; `effective_count`.
        share: as in `window_prices`.
    """
    xp = namespace(counts)
    n_targets, bins = int(counts.shape[0]), int(counts.shape[1])
    rank = arrays.like(_shares_array(share, n_targets) * total, counts)[:, None]
    above = xp.cumulative_sum(xp.flip(counts, axis=1), axis=1)
    # Bins from the top whose count, with all above, does not reach the rank.
    passed = xp.sum(xp.astype(above <= rank, xp.int64), axis=1, keepdims=True)
    full = passed >= bins
    index = xp.where(full, bins - 1, passed)
    inside = arrays.gather(xp.flip(counts, axis=1), index)
    before = arrays.gather(above, index) - inside
    share_in = (rank - before) / xp.where(inside > 0, inside, xp.ones_like(inside))
    price = (bins - xp.astype(index, counts.dtype) - share_in) / bins
    return xp.where(full, xp.zeros_like(price), price)[:, 0]


def effective_count(sources: int, window: int) -> float:
    """Weight of `sources` sources under forgetting by exp(-1/N) each: their sum of weights."""
    return -math.expm1(-sources / window) / -math.expm1(-1.0 / window)


def _shares(share: float | Array, n_targets: int) -> list[float]:
    return [float(c) for c in _shares_array(share, n_targets)]


def _shares_array(share: float | Array, n_targets: int) -> NDArray[np.float64]:
    given = np.asarray(share if isinstance(share, (int, float)) else arrays.to_numpy(share))
    full = np.full(n_targets, float(given)) if given.ndim == 0 else given.astype(np.float64)
    if full.shape != (n_targets,) or not bool((full >= 0).all()):
        raise SelectionError(f"share={share!r}, expected numbers >= 0, one or [T={n_targets}]")
    return full
