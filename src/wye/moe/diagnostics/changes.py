"""When does routing stop changing: the same tokens under two checkpoints.

Source: early routing learning, OpenMoE (arXiv 2402.01739, section 4). Shape letters: S tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wye.core import Plan, agreement
from wye.moe.base import MoEError
from wye.moe.diagnostics.choices import first_choice, labels_of
from wye.moe.diagnostics.tokens import histograms


@dataclass(frozen=True)
class RoutingChange:
    """How one checkpoint's routing differs from another's.

    Attributes:
        same_first: share of the tokens routed in both whose first expert is the same.
        changed_sets: share of tokens whose set of experts differs.
        overlap: mean Jaccard index of the sets.
        cosine: mean over ids v of the cosine of r_v before and after; NaN without token ids.
    """

    same_first: float
    changed_sets: float
    overlap: float
    cosine: float


def routing_change(
    before: Plan, after: Plan, token_ids: Any = None, *, least: int = 50
) -> RoutingChange:
    """Compare two plans of the same tokens and experts.

    Args:
        before, after: plans of one layer under two checkpoints.
        token_ids: `[S]` integers, for `cosine`.
        least: ids that occur less often do not count in `cosine`.

    Raises:
        MoEError: plans of different sizes or without tokens, or another number of ids.
    """
    sizes = (before.n_sources, before.n_targets), (after.n_sources, after.n_targets)
    if sizes[0] != sizes[1] or before.n_sources == 0:
        raise MoEError(
            f"plans of {sizes[0]} and {sizes[1]} (tokens, experts), expected the same tokens under "
            "two checkpoints of one model"
        )
    first, second = first_choice(before), first_choice(after)
    both = (first >= 0) & (second >= 0)
    same = float(np.mean(first[both] == second[both])) if both.any() else 1.0
    return RoutingChange(
        same,
        float(np.mean(_sets_differ(before, after))),
        agreement(before, after),
        _cosine(before, after, token_ids, least),
    )


def _sets_differ(before: Plan, after: Plan) -> Any:
    one, other = np.unique(before.host().cells()), np.unique(after.host().cells())
    width = max(before.n_targets, 1)
    odd = np.setxor1d(one, other, assume_unique=True) // width
    return np.bincount(odd, minlength=before.n_sources) > 0


def _cosine(before: Plan, after: Plan, token_ids: Any, least: int) -> float:
    if token_ids is None:
        return float("nan")
    ids = labels_of(token_ids, before.n_sources, "token ids")
    values, counts = np.unique(ids, return_counts=True)
    often = values[counts >= least]
    a, b = histograms(before, ids, often), histograms(after, ids, often)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    some = length > 0
    return float(np.mean((a * b).sum(axis=1)[some] / length[some])) if some.any() else float("nan")
