"""Bradley-Terry ratings from weighted battles with ties, and tiers of ratings.

    P(a beats b) = 1 / (1 + exp(theta_b - theta_a)),  Elo = 400 / ln 10 * theta + 1000
    theta = argmax sum_ab wins_ab log P(a beats b) - ridge / 2 sum_a theta_a^2

Bradley and Terry, Biometrika 39, 1952; on the Elo scale as in Chiang et al., arXiv 2403.04132. A
tie is half a win for each side. Without the ridge a target that never lost would have no finite
rating. Only how often a beat b enters, so battles are summed first and a fit is a Newton iteration
on `[T, T]`, for many weightings at once.

Shape letters: Q queries, M models, T targets (models or tiers).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

ELO_SCALE = 400.0 / math.log(10.0)
ELO_CENTRE = 1000.0
RIDGE = 1e-2
MOST_ITERATIONS = 200
# Newton's steps shrink quadratically: the one after a step of this length would be below 1e-9.
CONVERGED = 1e-6


def fit_bradley_terry(
    wins: FloatArray, *, ridge: float = RIDGE, start: FloatArray | None = None
) -> FloatArray:
    """Ratings `[..., T]` in natural units, mean zero.

    Args:
        wins: `[..., T, T]` weight of the battles that row beat column, ties half each way; the
            diagonal is not read.
        ridge: strength of the pull to zero, in battles.
        start: `[T]` or `[..., T]` where Newton begins; zero when None. It changes no result.

    Raises:
        RouterError: wins are negative, not finite or not square, or the ridge is not positive.

    Example:
        >>> wins = np.array([[0.0, 3.0], [1.0, 0.0]])
        >>> theta = fit_bradley_terry(wins, ridge=1e-9)
        >>> round(float(theta[0] - theta[1]), 6) == round(math.log(3.0), 6)
        True
    """
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2]:
        raise RouterError(f"wins have shape {wins.shape}, expected [..., T, T]")
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise RouterError("wins hold a number that is negative or not finite; expected weights")
    if not ridge > 0:
        raise RouterError(f"ridge is {ridge}, expected a positive number")
    n = wins.shape[-1]
    wins = np.where(np.eye(n, dtype=bool), 0.0, wins)
    battles = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(axis=-1)
    theta = np.zeros(won.shape) if start is None else np.broadcast_to(start, won.shape).copy()
    theta -= theta.mean(axis=-1, keepdims=True)
    diagonal = np.arange(n)
    for _ in range(MOST_ITERATIONS):
        chance = 1.0 / (1.0 + np.exp(theta[..., None, :] - theta[..., :, None]))
        expected = battles * chance
        gradient = won - expected.sum(axis=-1) - ridge * theta
        curvature = expected * np.swapaxes(chance, -1, -2)
        hessian = -curvature
        hessian[..., diagonal, diagonal] += curvature.sum(axis=-1) + ridge
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # Only the ridge holds the common level, which is zero: rounding would move it for ever.
        step -= step.mean(axis=-1, keepdims=True)
        longest = np.abs(step).max(axis=-1, keepdims=True)
        # A full Newton step may leap where the likelihood is flat; one unit of theta never does.
        theta += step / np.maximum(longest, 1.0)
        if longest.size == 0 or float(longest.max()) < CONVERGED:
            break
    return np.asarray(theta, np.float64)


def elo(theta: FloatArray) -> FloatArray:
    """Ratings on the Elo scale, of any shape."""
    return np.asarray(ELO_SCALE * theta + ELO_CENTRE, np.float64)


def win_probability(one: FloatArray, other: FloatArray) -> FloatArray:
    """Probability that Elo rating `one` beats `other`: 1 / (1 + 10^((other - one) / 400))."""
    return np.asarray(1.0 / (1.0 + 10.0 ** ((other - one) / 400.0)), np.float64)


def outcome_wins(quality: FloatArray, group: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    """`[Q, T, T]` battles that the outcomes of each query amount to.

    Every pair of models with a known outcome is a battle: the higher quality wins, equal quality is
    a tie.

    Args:
        quality: `[Q, M]`, NaN where unknown.
        group: `[M]` the target (tier) that each model stands for, 0 to T - 1; itself when None.
            Battles within a group are counted on the diagonal.

    Example:
        >>> outcome_wins(np.array([[1.0, 0.0, 1.0]]))[0].tolist()
        [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]
    """
    n_queries, n_models = quality.shape
    owner = np.arange(n_models) if group is None else group
    n_groups = int(owner.max()) + 1 if n_models else 0
    member = np.zeros((n_models, n_groups), np.float32)
    member[np.arange(n_models), owner] = 1.0
    wins = np.zeros((n_queries, n_groups, n_groups), np.float32)
    for a in range(n_models):
        mine = quality[:, [a]]
        # A comparison with NaN is false, so an unknown outcome fights no battle.
        won = (mine > quality).astype(np.float32) + np.float32(0.5) * (mine == quality)
        won[:, a] = 0.0
        wins[:, owner[a]] += won @ member
    return wins


def optimal_tiers(ratings: FloatArray, n_tiers: int) -> NDArray[np.intp]:
    """`[M]` tier of each rating, 0 the lowest: the partition with the least variance within tiers.

    One-dimensional k-means by dynamic programming (Fisher, JASA 53, 1958; Wang and Song, The R
    Journal 3, 2011). With as many tiers as ratings, or more, each rating has its own.

    Raises:
        RouterError: `n_tiers` is less than 1.

    Example:
        >>> optimal_tiers(np.array([5.0, 0.0, 5.1, 0.2]), 2).tolist()
        [1, 0, 1, 0]
    """
    if n_tiers < 1:
        raise RouterError(f"n_tiers is {n_tiers}, expected 1 or more")
    n = ratings.size
    n_tiers = min(n_tiers, n)
    order = np.argsort(ratings, kind="stable")
    value = ratings[order] - (ratings.mean() if n else 0.0)
    total = np.concatenate([[0.0], np.cumsum(value)])
    square = np.concatenate([[0.0], np.cumsum(value**2)])
    start, end = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    size = np.maximum(end - start, 1)
    spread = square[None, :] - square[:, None] - (total[None, :] - total[:, None]) ** 2 / size
    spread = np.where(end > start, np.maximum(spread, 0.0), np.inf)
    best = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    cuts: list[NDArray[np.intp]] = []
    for _ in range(n_tiers):
        reached = best[:, None] + spread
        cuts.append(reached.argmin(axis=0))
        best = reached.min(axis=0)
    tier = np.zeros(n, np.intp)
    stop = n
    for t in range(n_tiers - 1, -1, -1):
        begin = int(cuts[t][stop])
        tier[order[begin:stop]] = t
        stop = begin
    return tier
