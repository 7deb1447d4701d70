"""The best targets under a hard quota, exactly.

The balanced assignment of BASE layers (Lewis et al. 2021, arXiv 2103.16716, equation 2). The
constraints are those of a transportation problem, whose linear programme has whole-numbered
vertices, so that the integer programme is solved at its root.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wye.core import arrays
from wye.core.arrays import Array, SelectionError
from wye.core.plan import Plan
from wye.core.selection.balanced import quota_limits
from wye.core.selection.exchange import assign_by_exchange
from wye.core.selection.inputs import check_k, check_scores, masked, refuse_nan
from wye.core.weights import Weighting, weigh_rows


def assignment(
    scores: Array,
    k: int = 1,
    *,
    quota: int | Array | None = None,
    allowed: Array | None = None,
    weight: Weighting = "score",
) -> Plan:
    """Give every source exactly `k` targets, no target more than its quota, best total score.

    Solved on the host in float64; weights are gathered from `scores` and carry their gradient.
    Pairs come source by source, by falling score.

    Ties: among plans of equal total any one. NaN: an error. No sources: an empty plan.

    Args:
        scores: `[S, T]`; -inf forbids a pair.
        k: choices per source, 1 to T.
        quota: most sources a target may get, an integer or integers `[T]`; ceil(k S / T) when not
            given.
        allowed: `[T]` or `[S, T]` booleans; False forbids a pair.
        weight: as in `top_k`.

    Raises:
        SelectionError: wrong shapes, NaN, or no plan that meets the quota.

    Example:
        >>> import numpy as np
        >>> assignment(np.array([[0.9, 0.5], [0.8, 0.1]])).target.tolist()
        [1, 0]
    """
    n_sources, n_targets = check_scores(scores)
    check_k(k, n_targets)
    open_scores = masked(scores, allowed)
    refuse_nan(open_scores)
    value = np.asarray(arrays.to_numpy(open_scores), dtype=np.float64)
    if np.isposinf(value).any():
        raise SelectionError("scores hold +inf, whose totals cannot be compared: use finite scores")
    limit = np.minimum(quota_limits(quota, k, n_sources, n_targets), n_sources) if n_sources else []
    if n_sources == 0:
        index = np.zeros((0, k), dtype=np.int64)
    elif k == 1:
        place = assign_by_exchange(value, np.asarray(limit))
        if place is None:
            raise _infeasible()
        index = place[:, None]
    else:
        index = _by_programme(value, k, np.asarray(limit))
    target = arrays.like(index, scores, integer=True)
    return Plan.from_rows(target, weigh_rows(arrays.gather(open_scores, target), weight), n_targets)


def _by_programme(
    value: NDArray[np.float64], k: int, limit: NDArray[np.int64]
) -> NDArray[np.int64]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    n_sources, n_targets = value.shape
    source, target = np.nonzero(value > -np.inf)
    n = source.shape[0]
    cells = np.arange(n)
    rows = csr_array((np.ones(n), (source, cells)), shape=(n_sources, n))
    columns = csr_array((np.ones(n), (target, cells)), shape=(n_targets, n))
    result = milp(
        -value[source, target],
        constraints=[LinearConstraint(rows, k, k), LinearConstraint(columns, -np.inf, limit)],
        integrality=np.ones(n, dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise _infeasible()
    taken = result.x > 0.5
    chosen = np.full((n_sources, n_targets), -np.inf)
    chosen[source[taken], target[taken]] = value[source[taken], target[taken]]
    return np.asarray(np.argsort(-chosen, axis=1, kind="stable")[:, :k], dtype=np.int64)


def _infeasible() -> SelectionError:
    return SelectionError(
        "no plan gives every source its k allowed targets within the quota: raise the quota or "
        "allow more pairs"
    )
