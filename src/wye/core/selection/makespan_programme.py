"""The exact side of `makespan`: a mixed-integer programme solved by HiGHS.

Shape letters: S sources, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ProgrammeResult:
    """A feasible choice `[S]`, a lower bound on the makespan, and whether they meet."""

    choice: NDArray[np.int64]
    bound: float
    proven: bool


def exact_choice(
    matrix: NDArray[np.float64],
    sizes: NDArray[np.float64],
    room: NDArray[np.float64],
    time_limit: float,
    *,
    prove: bool,
) -> ProgrammeResult | None:
    """The choice of least makespan, or None where there is none or the time did not suffice.

    Minimises z subject to sum_t x_st = 1, sum_s cost x_st <= z, sum_s size x_st <= room_t.

    Args:
        matrix: `[S, T]` cost, infinite where forbidden.
        sizes: `[S]`.
        room: `[T]`, infinite where there is no limit.
        time_limit: seconds.
        prove: search for the least makespan; otherwise any choice within the room will do.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, hstack

    n, width = matrix.shape
    source, target = np.nonzero(np.isfinite(matrix))
    cells = np.arange(source.shape[0])
    m = cells.shape[0]
    none = csr_array((n, 1))
    once = csr_array((np.ones(m), (source, cells)), shape=(n, m))
    paid = csr_array((matrix[source, target], (target, cells)), shape=(width, m))
    held = csr_array((sizes[source], (target, cells)), shape=(width, m))
    limited = np.isfinite(room)
    constraints = [
        LinearConstraint(hstack([once, none]), 1, 1),
        LinearConstraint(hstack([paid, csr_array(-np.ones((width, 1)))]), -np.inf, 0),
    ]
    if limited.any():
        kept = hstack([held, csr_array((width, 1))]).tocsr()[np.nonzero(limited)[0]]
        constraints.append(LinearConstraint(kept, -np.inf, room[limited]))
    objective = np.zeros(m + 1)
    objective[-1] = 1.0
    result = milp(
        objective,
        constraints=constraints,
        integrality=np.append(np.ones(m), 0),
        bounds=Bounds(0, np.append(np.ones(m), np.inf)),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0 if prove else 0.5},
    )
    if result.x is None:
        return None
    taken = result.x[:-1] > 0.5
    choice = np.zeros(n, dtype=np.int64)
    choice[source[taken]] = target[taken]
    bound = result.mip_dual_bound
    return ProgrammeResult(
        choice=choice,
        bound=float(bound) if bound is not None and np.isfinite(bound) else 0.0,
        proven=bool(result.status == 0) and prove,
    )
