"""Which experts to host under a budget of size, and which of them serves each category.

    maximise    sum_c n_c sum_m (A[c, m] - mu p_m) z[c, m]
    subject to  sum_m z[c, m] = 1,   z[c, m] <= y_m,   sum_m p_m y_m <= P,   z, y in {0, 1}

Source: Composition of Experts, arXiv 2412.01868 (the term with mu is ours). The bound z <= y holds
for every pair; a bound on the sum over categories would let fractions of an expert through.

Shape letters: C categories, M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError

SOLVERS = ("milp", "enumerate")
MOST_ENUMERATED = 15
EQUAL = 1e-12


@dataclass(frozen=True)
class Hosting:
    """What is hosted, and the table that uses it.

    Attributes:
        hosted: `[M]` whether each model is hosted: those that some category uses.
        expert: `[C]` column of the model that serves each category.
        objective: sum_c n_c (A[c, expert_c] - mu p_expert_c).
        size: sum of the sizes of the hosted models; NaN where one is unknown.
    """

    hosted: NDArray[np.bool_]
    expert: NDArray[np.intp]
    objective: float
    size: float


def host_experts(
    quality: FloatArray,
    weight: FloatArray,
    sizes: FloatArray,
    *,
    budget: float | None = None,
    size_penalty: float = 0.0,
    solver: str = "milp",
) -> Hosting:
    """The best set of models within the budget, and the best of them for each category.

    Args:
        quality: `[C, M]` quality of each model in each category (A).
        weight: `[C]` queries, or share of traffic, of each category (n), 0 or more.
        sizes: `[M]` size of each model (p), for instance billions of parameters; NaN for unknown,
            which a budget or a penalty does not allow.
        budget: most that the hosted models may sum to (P); None for no bound.
        size_penalty: quality that one unit of active size must be worth (mu), 0 or more.
        solver: `milp` (SciPy's HiGHS) or `enumerate`, exact by trying every set of up to 15 models.

    Raises:
        RouterError: no model fits the budget, a size is unknown where it counts, an argument is out
            of range, or the solver gives up.

    Example:
        >>> A = np.array([[0.9, 0.2], [0.1, 0.8]])
        >>> host_experts(A, np.array([2.0, 1.0]), np.array([7.0, 7.0]), budget=7.0).expert.tolist()
        [0, 0]
    """
    _check(quality, weight, sizes, budget, size_penalty, solver)
    penalty = size_penalty * sizes if size_penalty > 0 else np.zeros_like(sizes)
    gain = weight[:, None] * (quality - penalty)
    if budget is None:
        allowed = np.ones(sizes.size, np.bool_)
    elif solver == "milp":
        allowed = _programme(gain, sizes, budget)
    else:
        allowed = _enumerated(gain, sizes, budget)
    expert = _assigned(quality - penalty, sizes, allowed)
    hosted = np.zeros(sizes.size, np.bool_)
    hosted[expert] = True
    return Hosting(
        hosted=hosted,
        expert=expert,
        objective=float(gain[np.arange(len(expert)), expert].sum()),
        size=float(sizes[hosted].sum()),
    )


def _assigned(value: FloatArray, sizes: FloatArray, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The best allowed model of each category; of equals the smallest, then the first."""
    order = np.argsort(np.where(np.isnan(sizes), np.inf, sizes), kind="stable")
    kept = order[allowed[order]]
    return np.asarray(kept[value[:, kept].argmax(axis=1)], np.intp)


def _programme(gain: FloatArray, sizes: FloatArray, budget: float) -> NDArray[np.bool_]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    c, m = gain.shape
    pair = np.arange(c * m)
    one_each = coo_array((np.ones(c * m), (pair // m, pair)), shape=(c, c * m + m))
    within = coo_array(
        (np.repeat([1.0, -1.0], c * m), (np.tile(pair, 2), np.append(pair, c * m + pair % m))),
        shape=(c * m, c * m + m),
    )
    total = np.concatenate([np.zeros(c * m), sizes])[None, :]
    constraints = [
        LinearConstraint(one_each.tocsr(), 1.0, 1.0),
        LinearConstraint(within.tocsr(), -np.inf, 0.0),
        LinearConstraint(total, -np.inf, budget),
    ]
    value = np.concatenate([gain.ravel(), np.zeros(m)])

    def solved(cost: FloatArray, constraints: list[LinearConstraint]) -> NDArray[np.bool_]:
        found = milp(
            cost,
            constraints=constraints,
            bounds=Bounds(0.0, 1.0),
            integrality=np.ones(c * m + m),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise RouterError(f"the integer programme was not solved: {found.message}")
        return np.asarray(found.x[c * m :] > 0.5, np.bool_)

    best = solved(-value, constraints)
    optimum = _worth(gain, best)
    # Of sets that are worth as much, the smallest: the same programme with the value as a bound.
    smallest = solved(total[0], [*constraints, LinearConstraint(value[None, :], optimum, np.inf)])
    return smallest if _worth(gain, smallest) >= optimum - EQUAL else best


def _worth(gain: FloatArray, allowed: NDArray[np.bool_]) -> float:
    return float(gain[:, allowed].max(axis=1).sum())


def _enumerated(gain: FloatArray, sizes: FloatArray, budget: float) -> NDArray[np.bool_]:
    m = sizes.size
    members = (np.arange(1, 2**m)[:, None] >> np.arange(m)) & 1 == 1
    members = members[members @ sizes <= budget]
    # Small sets first, so that of equally good ones the smallest is kept.
    members = members[np.argsort(members @ sizes, kind="stable")]
    best, chosen = -np.inf, members[0]
    for row in members:
        value = _worth(gain, row)
        if value > best + EQUAL:
            best, chosen = value, row
    return np.asarray(chosen, np.bool_)


def _check(
    quality: FloatArray,
    weight: FloatArray,
    sizes: FloatArray,
    budget: float | None,
    size_penalty: float,
    solver: str,
) -> None:
    if quality.ndim != 2 or weight.shape != quality.shape[:1] or sizes.shape != quality.shape[1:]:
        raise RouterError(
            f"quality {quality.shape}, weight {weight.shape} and sizes {sizes.shape} do not fit; "
            "expected [C, M], [C] and [M]"
        )
    if not np.isfinite(quality).all() or not (np.isfinite(weight) & (weight >= 0)).all():
        raise RouterError("quality must be finite and weight finite and 0 or more")
    if solver not in SOLVERS:
        raise RouterError(f"solver is {solver!r}, expected one of {list(SOLVERS)}")
    if not size_penalty >= 0:
        raise RouterError(f"size_penalty is {size_penalty}, expected 0 or more")
    if budget is None and size_penalty == 0:
        return
    if not (sizes > 0).all():
        raise RouterError(
            f"the sizes are {sizes.tolist()}; a budget or a penalty of size needs that of every "
            "model, above 0: give `params_b` in the models of the data"
        )
    if budget is not None and not budget >= sizes.min():
        raise RouterError(
            f"no model fits a budget of {budget}; the smallest has a size of {sizes.min()}"
        )
    if budget is not None and solver == "enumerate" and sizes.size > MOST_ENUMERATED:
        raise RouterError(
            f"{sizes.size} models have too many subsets to try; use solver='milp' above "
            f"{MOST_ENUMERATED}"
        )
