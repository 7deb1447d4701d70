"""What a plan promises: capacity, fan-out, coverage, weights, and the best targets first.

Shape letters: S sources, T targets, N routed pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.plan import PlanError

if TYPE_CHECKING:
    from wye.core import Plan


class PlanContractError(AssertionError):
    """A plan that does not keep what was asked of it; the message names the source or target."""


def check_plan(
    plan: Plan,
    *,
    capacity: int | Any = None,
    fan_out: int | tuple[int, int] | None = None,
    coverage: float = 1.0,
    weights_sum_to: float | None = None,
    scores: Any = None,
    tolerance: float = 1e-5,
) -> None:
    """Raise unless a plan is valid and keeps every limit that is given.

    Indices in range, finite weights and no pair twice are always checked.

    Args:
        plan: N pairs, in arrays of any library.
        capacity: pairs that a target takes at most, an integer or integers `[T]`.
        fan_out: pairs of every source, an integer or (least, most); sources without a pair are the
            business of `coverage` where the least is 0 or a capacity is given.
        coverage: least share of sources that have a pair; 1 demands all, 0 allows an empty plan.
        weights_sum_to: sum of the weights of every source that has a pair.
        scores: `[S, T]` that the plan was chosen by: no source may lack a target with a free place
            that it scores higher than one it got.
        tolerance: of sums and scores.

    Raises:
        PlanContractError: one of these does not hold, or the plan is empty and `coverage` is above
            0, so that the check would say nothing.

    Example:
        >>> import numpy as np
        >>> from wye.core import top_k
        >>> scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
        >>> check_plan(top_k(scores, 2), fan_out=2, scores=scores, capacity=2)
    """
    host = plan.host()
    try:
        host.validate(distinct=True)
    except PlanError as error:
        raise PlanContractError(f"the plan contradicts itself: {error}") from error
    if not 0 <= coverage <= 1:
        raise PlanContractError(f"coverage={coverage}, expected a share from 0 to 1")
    fan = np.asarray(host.fan_out())
    _check_coverage(fan, coverage)
    limit = _limit(capacity, host.n_targets)
    _check_capacity(np.asarray(host.load()), limit, capacity is not None)
    if fan_out is not None:
        _check_fan_out(fan, fan_out, optional=capacity is not None)
    if weights_sum_to is not None:
        _check_sums(host, fan, weights_sum_to, tolerance)
    if scores is not None:
        _check_scores(host, np.asarray(arrays.to_numpy(scores), np.float64), limit, tolerance)


def _check_coverage(fan: NDArray[np.int64], coverage: float) -> None:
    if fan.size == 0:
        return
    share = float(np.mean(fan > 0))
    if share < coverage:
        raise PlanContractError(
            f"{share:.4f} of {fan.size} sources have a target, expected at least {coverage:.4f}; "
            f"the first without: {int(np.argmax(fan == 0))}. Raise the capacity, or ask for less "
            "coverage where drops are meant"
        )


def _limit(capacity: Any, n_targets: int) -> NDArray[np.float64]:
    if capacity is None:
        return np.full(n_targets, np.inf)
    limit = np.asarray(arrays.to_numpy(capacity), np.float64)
    if limit.shape not in ((), (n_targets,)) or not np.all(limit >= 0):
        raise PlanContractError(
            f"capacity has shape {limit.shape} and least value {limit.min(initial=np.inf)}, "
            f"expected one number or [T={n_targets}], each >= 0"
        )
    return np.array(np.broadcast_to(limit, (n_targets,)))


def _check_capacity(load: NDArray[np.int64], limit: NDArray[np.float64], asked: bool) -> None:
    over = load - limit
    if asked and load.size and over.max() > 0:
        worst = int(np.argmax(over))
        raise PlanContractError(
            f"target {worst} has {int(load[worst])} pairs, expected at most {int(limit[worst])}; "
            f"{int((over > 0).sum())} of {load.size} targets are over capacity"
        )


def _check_fan_out(
    fan: NDArray[np.int64], fan_out: int | tuple[int, int], *, optional: bool
) -> None:
    least, most = (fan_out, fan_out) if isinstance(fan_out, int) else fan_out
    if optional:
        least = 0
    wrong = (fan < least) | (fan > most)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise PlanContractError(
            f"source {first} has {int(fan[first])} pairs, expected {least} to {most}; "
            f"{int(wrong.sum())} of {fan.size} sources are out of bounds"
        )


def _check_sums(plan: Plan, fan: NDArray[np.int64], expected: float, tolerance: float) -> None:
    weight = np.asarray(plan.weight, np.float64)
    total = np.bincount(plan.source, weights=weight, minlength=plan.n_sources)
    gap = np.where(fan > 0, np.abs(total - expected), 0.0)
    if gap.size and gap.max() > tolerance:
        worst = int(np.argmax(gap))
        raise PlanContractError(
            f"the weights of source {worst} sum to {total[worst]:.6g}, expected {expected:.6g}: "
            "normalise them over the pairs that are left, or ask for no sum"
        )


def _check_scores(
    plan: Plan, scores: NDArray[np.float64], limit: NDArray[np.float64], tolerance: float
) -> None:
    if scores.shape != (plan.n_sources, plan.n_targets):
        raise PlanContractError(
            f"scores have shape {scores.shape}, expected {(plan.n_sources, plan.n_targets)}"
        )
    if len(plan) == 0:
        return
    chosen = np.zeros(scores.shape, dtype=bool)
    chosen[plan.source, plan.target] = True
    worst_got = np.where(chosen, scores, np.inf).min(axis=1)
    free = np.asarray(plan.load()) < limit
    missed = np.where(chosen | ~free[None, :], -np.inf, scores)
    best_missed = missed.max(axis=1)
    wrong = best_missed > worst_got + tolerance
    if wrong.any():
        first = int(np.argmax(wrong))
        raise PlanContractError(
            f"source {first} got a target of score {worst_got[first]:.6g} and not target "
            f"{int(np.argmax(missed[first]))} of score {best_missed[first]:.6g}, which has a free "
            f"place; so have {int(wrong.sum())} of {plan.n_sources} sources. Expected the best "
            "targets first"
        )
