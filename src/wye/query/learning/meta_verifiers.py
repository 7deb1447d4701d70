"""Meta-verifiers: which values of a self-verification send a query on to the large model.

Source: AutoMix, Aggarwal, Madaan et al., arXiv 2310.12963. A verification v takes the values 0,
1/K, ..., 1, so that every policy is a table of K + 1 booleans; here are the tables of all four
kinds, and what a table yields on recorded outcomes (equations in `wye.query.automix`).

Shape letters: Q queries, K verifications, B = K + 1 bins of v, P policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError

SMOOTHING = 2.0
REWARDS = 5000
ESCALATION = 100.0


@dataclass(frozen=True)
class TwoModelOutcomes:
    """Recorded answers of a small and a large model to Q queries, verified.

    Attributes:
        value: `[Q]` v, in {0, 1/k, ..., 1}.
        small, large: `[Q]` quality, 0 to 1.
        small_cost: `[Q]` USD of the small model's answer and of its verification.
        large_cost: `[Q]` USD.
        bare_cost: `[Q]` USD of the small model's answer alone, for the baseline.
    """

    value: FloatArray
    small: FloatArray
    large: FloatArray
    small_cost: FloatArray
    large_cost: FloatArray
    bare_cost: FloatArray

    def __post_init__(self) -> None:
        shapes = {f.shape for f in vars(self).values()}
        if len(shapes) > 1 or len(self.value.shape) != 1 or not self.value.size:
            raise RouterError(f"outcomes have shapes {sorted(shapes)}, expected [Q] alike, Q >= 1")
        if not all(np.isfinite(f).all() for f in vars(self).values()):
            raise RouterError("outcomes must be finite; leave out queries with unknown ones")

    @property
    def base(self) -> float:
        """IBC of sending everything to the large model instead of the small one."""
        return ibc(
            float(self.large.mean() - self.small.mean()),
            float(self.large_cost.mean() - self.bare_cost.mean()),
        )

    def run(self, escalate: BoolArray) -> tuple[float, float]:
        """Mean quality and cost where the queries `escalate` `[Q]` go on to the large model."""
        quality = np.where(escalate, self.large, self.small)
        cost = self.small_cost + np.where(escalate, self.large_cost, 0.0)
        return float(quality.mean()), float(cost.mean())

    def lift(self, escalate: BoolArray) -> float:
        """IBC lift of that; -1 where nothing is gained over the small model, less for a loss."""
        quality, cost = self.run(escalate)
        return ibc_lift(
            quality - float(self.small.mean()), cost - float(self.bare_cost.mean()), self.base
        )


def ibc(quality_gain: float, extra_cost: float) -> float:
    """Incremental benefit per cost; NaN where nothing more is paid."""
    return quality_gain / extra_cost if extra_cost > 0 else float("nan")


def ibc_lift(quality_gain: float, extra_cost: float, base: float) -> float:
    """By how much a policy's IBC exceeds `base`, as a share of it: -1 where nothing is gained, -inf
    where nothing is paid either.

    Raises:
        RouterError: `base` is not above 0, so that the large model is not worth its cost at all.

    Example:
        >>> round(ibc_lift(0.1, 1.0, base=0.05), 9)
        1.0
    """
    if not base > 0:
        raise RouterError(
            f"the IBC of the large model is {base}, expected above 0: it is not better than the "
            "small one, or not dearer, so there is nothing to escalate for"
        )
    if extra_cost <= 0:
        return float("-inf")
    return quality_gain / extra_cost / base - 1.0


def threshold_tables(k: int) -> NDArray[np.bool_]:
    """`[K + 1, B]` escalate where v <= t, for every t; the last escalates all.

    Example:
        >>> threshold_tables(2).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return np.tri(k + 1, dtype=np.bool_)


def double_threshold_tables(k: int) -> NDArray[np.bool_]:
    """`[(K + 1) K / 2, B]` escalate where t1 <= v <= t2, for every t1 < t2."""
    bins = np.arange(k + 1)
    low, high = np.triu_indices(k + 1, 1)
    table: NDArray[np.bool_] = (bins >= low[:, None]) & (bins <= high[:, None])
    return table


def greedy_tables(bins: NDArray[np.intp], gain: FloatArray, k: int) -> NDArray[np.bool_]:
    """`[B, B]` the first 1, 2, ... bins in order of smoothed mean gain escalate.

    Args:
        bins: `[Q]` bin of each training query.
        gain: `[Q]` quality of the large model less that of the small one.
        k: number of verifications.
    """
    from scipy.ndimage import gaussian_filter1d

    counts = np.bincount(bins, minlength=k + 1)
    mean = np.bincount(bins, gain, k + 1) / np.maximum(counts, 1)
    order = np.argsort(-gaussian_filter1d(mean, SMOOTHING), kind="stable")
    rank = np.empty(k + 1, np.intp)
    rank[order] = np.arange(k + 1)
    table: NDArray[np.bool_] = rank <= np.arange(k + 1)[:, None]
    return table


def category_shares(
    bins: NDArray[np.intp], small: FloatArray, large: FloatArray, k: int
) -> FloatArray:
    """`[B, 3]` shares of NEEDY (only the large model right), GOOD (the small one right) and
    HOPELESS (neither) in each bin; zeros in a bin that no query fell into.
    """
    category = np.where(small >= 0.5, 1, np.where(large >= 0.5, 0, 2))
    counts = np.bincount(3 * bins + category, minlength=3 * (k + 1)).reshape(k + 1, 3)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float64)


def pomdp_tables(shares: FloatArray, rewards: int = REWARDS) -> NDArray[np.bool_]:
    """`[P, B]` the distinct policies of all rewards R = 0, ..., `rewards`.

    Args:
        shares: `[B, 3]` P(NEEDY | v), P(GOOD | v), P(HOPELESS | v).
    """
    needy, _, hopeless = shares.T
    # Escalating is better where R P(NEEDY) + P(HOPELESS) exceeds its price, in every term of which
    # the R of HOPELESS cancels.
    price = ESCALATION * shares.sum(axis=1) - hopeless
    reward = np.arange(rewards + 1.0)[:, None]
    return np.unique(reward * needy > price, axis=0)
