"""What a report compares on: the same queries and the same models for everybody.

A model that is missing on hard queries looks better than it is. So the models of a comparison are
those that answered nearly all queries, and its queries are those that all of these answered.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.errors import WyeError
from wye.query.wording import listed

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import BoolArray, FloatArray


class ReportError(WyeError):
    """A report cannot be made from what was given; the message says what to do."""


@dataclass(frozen=True)
class Comparison:
    """Outcomes of M models on Q queries without a gap.

    Attributes:
        data_name: what the set is called.
        models: M names.
        quality: `[Q, M]`.
        cost: `[Q, M]` USD, or None where the set has no costs.
        datasets: `[Q]`.
        rows: `[Q]` positions of these queries in the data.
        n_queries: how many queries the data have.
        excluded: why a model of the data is not compared, by name.
        notes: how the comparison was made fair, in sentences.
    """

    data_name: str
    models: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray | None
    datasets: NDArray[Any]
    rows: NDArray[np.intp]
    n_queries: int
    excluded: dict[str, str]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.quality.shape[0])


def compare_on(data: RoutingData, *, min_coverage: float = 0.9) -> Comparison:
    """The models that answered more than `min_coverage` of the queries, where all of them did.

    Where some of these models have a known cost on more than `min_coverage` of the queries, the
    others are left out, since no share of a cost can be told for them; where none has, or all is
    free, the comparison has no costs.

    Raises:
        ReportError: no queries, no model with that coverage, or no query that all have answered.
    """
    quality, cost = data.quality, data.cost
    n_queries = quality.shape[0]
    if not n_queries:
        raise ReportError(f"{data.name} has no queries, expected at least one to report on")
    coverage = np.isfinite(quality).mean(axis=0)
    excluded = {
        name: f"answered {share:.0%} of the queries, {min_coverage:.0%} are needed"
        for name, share in zip(data.model_names, coverage, strict=True)
        if share <= min_coverage
    }
    keep = coverage > min_coverage
    if not keep.any():
        most = data.model_names[int(coverage.argmax())] if coverage.size else "none"
        raise ReportError(
            f"no model of {data.name} answered more than {min_coverage:.0%} of its {n_queries} "
            f"queries (most: {most}, {coverage.max(initial=0.0):.0%}), and models are compared on "
            "the same queries; collect more answers, or lower min_coverage"
        )
    priced = keep & (np.isfinite(cost).mean(axis=0) > min_coverage)
    # Where everything is free there is nothing to weigh quality against.
    has_costs = bool(np.nan_to_num(cost[:, priced]).any())
    if has_costs:
        for m in np.flatnonzero(keep & ~priced):
            excluded[data.model_names[m]] = "its cost is not known"
        keep = priced
    columns = np.flatnonzero(keep)
    known = np.isfinite(quality[:, columns]).all(axis=1)
    if has_costs:
        known &= np.isfinite(cost[:, columns]).all(axis=1)
    if not known.any():
        raise ReportError(
            f"no query of {data.name} was answered by all of the {columns.size} models with a "
            f"coverage above {min_coverage:.0%}; raise min_coverage to compare fewer models"
        )
    rows = np.flatnonzero(known)
    return Comparison(
        data_name=data.name,
        models=tuple(data.model_names[m] for m in columns),
        quality=quality[np.ix_(rows, columns)],
        cost=cost[np.ix_(rows, columns)] if has_costs else None,
        datasets=data.datasets[rows],
        rows=rows,
        n_queries=n_queries,
        excluded=excluded,
        notes=_notes(columns.size, rows.size, n_queries, excluded, has_costs),
    )


def restricted(comparison: Comparison, keep: BoolArray) -> Comparison:
    """The same comparison on some of its queries (`[Q]` booleans)."""
    return Comparison(
        comparison.data_name,
        comparison.models,
        comparison.quality[keep],
        None if comparison.cost is None else comparison.cost[keep],
        comparison.datasets[keep],
        comparison.rows[keep],
        comparison.n_queries,
        comparison.excluded,
        comparison.notes,
    )


def _notes(
    n_models: int, n_used: int, n_queries: int, excluded: dict[str, str], has_costs: bool
) -> tuple[str, ...]:
    notes = [
        (
            f"All figures are on the same {n_used} of {n_queries} queries, those that each of the "
            f"{n_models} models compared has answered."
        )
    ]
    by_kind: dict[str, list[str]] = {}
    for name, reason in excluded.items():
        kind = "answered too few of the queries" if reason.startswith("answered") else reason
        by_kind.setdefault(kind, []).append(name)
    notes.extend(f"Left out: {listed(names)} ({kind})." for kind, names in by_kind.items())
    if not has_costs:
        notes.append("The set has no costs above zero, so figures about money are missing.")
    return tuple(notes)
