"""What a set of outcomes holds, and what to beware of in it: the figures of `wye data show`.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.data.artefacts import Artefact, find_artefacts
from wye.data.questions import normalise_all

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.data.routing_data import RoutingData

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelSummary:
    """One model: how much of the set it answered, how well, at what cost.

    Attributes:
        model: its name.
        answered: queries with a known outcome.
        coverage: `answered` as a share of all queries.
        quality, quality_error: mean over the answered queries (0 to 1) and its standard error.
            Models of different coverage are not comparable by it.
        ahead: mean of its quality minus the mean quality of all models on the same query.
        best_on: datasets on which its mean quality is the highest among models that answered over
            90% of the dataset.
        cost_usd: mean cost of one answer where known, NaN where never known.
        cost_known: share of its outcomes with a known cost.
        latency_s: mean seconds of one answer where known, NaN where never known.
    """

    model: str
    answered: int
    coverage: float
    quality: float
    quality_error: float
    ahead: float
    best_on: int
    cost_usd: float
    cost_known: float
    latency_s: float


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset: size, the best model that answered over 90% of it, and the oracle."""

    dataset: str
    queries: int
    density: float
    best_model: str | None
    best_quality: float
    oracle: float


@dataclass(frozen=True)
class DataSummary:
    """Counts, density, models, oracle, duplicates and artefacts of one set.

    Attributes:
        name: what the set is called.
        queries, outcomes: how many.
        density: known outcomes as a share of all pairs of query and model.
        splits: queries of each split.
        cost_known, latency_known: share of outcomes with a known cost, latency.
        best_single: model with the highest mean quality among those that answered over 90% of the
            queries; None where there is none.
        best_single_quality: its mean quality.
        best_per_dataset: mean quality when each dataset goes to its own best model, over the
            queries where that model has an outcome.
        oracle: mean of the best quality of each query, whatever the cost. Optimistic: with many
            models one is right by luck.
        none_right: share of queries on which every known quality is 0.
        contested: share of queries on which models differ, so that routing can matter.
        duplicates: queries whose normalised text an earlier query has already.
        across_splits: normalised questions that stand in more than one split.
        artefacts: suspicious datasets, see `wye.data.artefacts`.
        models, datasets: one summary each, best or largest first.
    """

    name: str
    queries: int
    outcomes: int
    density: float
    splits: dict[str, int]
    cost_known: float
    latency_known: float
    best_single: str | None
    best_single_quality: float
    best_per_dataset: float
    oracle: float
    none_right: float
    contested: float
    duplicates: int
    across_splits: int
    artefacts: tuple[Artefact, ...]
    models: tuple[ModelSummary, ...]
    datasets: tuple[DatasetSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form; a figure that is unknown is None."""
        cleaned = _without_nan(asdict(self))
        assert isinstance(cleaned, dict)
        for entry, artefact in zip(cleaned["artefacts"], self.artefacts, strict=True):
            entry["text"] = artefact.describe()
        return cleaned

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from wye.data.summary_view import render

        yield from render(self)


def summarise(data: RoutingData) -> DataSummary:
    """Count, compare and examine a set of outcomes.

    Example:
        >>> import pandas as pd
        >>> from wye.data import RoutingData
        >>> queries = pd.DataFrame(
        ...     {"query_id": ["a"], "dataset": ["d"], "text": ["1 + 1?"], "split": ["test"]}
        ... )
        >>> outcomes = pd.DataFrame({"query_id": ["a"], "model": ["m"], "quality": [1.0]})
        >>> summarise(RoutingData(queries, outcomes, pd.DataFrame({"model": ["m"]}))).oracle
        1.0
    """
    quality = data.quality
    known = np.isfinite(quality)
    cost, latency = data.cost, data.latency
    datasets = _dataset_summaries(data, quality, known)
    models = _model_summaries(data, quality, known, cost, latency, datasets)
    eligible = [m for m in models if m.coverage > 0.9]
    best = max(eligible, key=lambda m: m.quality, default=None)
    answered = known.any(1)
    top = np.where(known, quality, -np.inf).max(1, initial=-np.inf)[answered]
    least = np.where(known, quality, np.inf).min(1, initial=np.inf)[answered]
    questions = normalise_all(data.texts)
    splits = data.queries["split"].tolist()
    sides = Counter(question for question, _ in set(zip(questions, splits, strict=True)))
    return DataSummary(
        name=data.name,
        queries=len(data),
        outcomes=len(data.outcomes),
        density=float(known.mean()) if known.size else math.nan,
        splits=dict(sorted(Counter(splits).items())),
        cost_known=_share(np.isfinite(cost), known),
        latency_known=_share(np.isfinite(latency), known),
        best_single=best.model if best else None,
        best_single_quality=best.quality if best else math.nan,
        best_per_dataset=_best_per_dataset(data, quality, datasets),
        oracle=float(top.mean()) if len(top) else math.nan,
        none_right=float((top == 0).mean()) if len(top) else math.nan,
        contested=float((top > least).mean()) if len(top) else math.nan,
        duplicates=len(questions) - len(set(questions)),
        across_splits=sum(count > 1 for count in sides.values()),
        artefacts=find_artefacts(data),
        models=models,
        datasets=datasets,
    )


def _dataset_summaries(
    data: RoutingData, quality: Floats, known: NDArray[np.bool_]
) -> tuple[DatasetSummary, ...]:
    result = []
    for name, count in Counter(data.datasets.tolist()).most_common():
        rows = data.datasets == name
        q, k = quality[rows], known[rows]
        means = np.where(k.mean(0) > 0.9, np.where(k, q, 0.0).sum(0) / k.sum(0).clip(1), -np.inf)
        has_best = means.size > 0 and np.isfinite(means.max())
        top = np.where(k, q, -np.inf).max(1, initial=-np.inf)[k.any(1)]
        result.append(
            DatasetSummary(
                dataset=str(name),
                queries=count,
                density=float(k.mean()) if k.size else math.nan,
                best_model=data.model_names[int(means.argmax())] if has_best else None,
                best_quality=float(means.max()) if has_best else math.nan,
                oracle=float(top.mean()) if len(top) else math.nan,
            )
        )
    return tuple(result)


def _model_summaries(
    data: RoutingData,
    quality: Floats,
    known: NDArray[np.bool_],
    cost: Floats,
    latency: Floats,
    datasets: tuple[DatasetSummary, ...],
) -> tuple[ModelSummary, ...]:
    wins = Counter(d.best_model for d in datasets)
    filled = np.where(known, quality, 0.0)
    ahead = quality - (filled.sum(1) / known.sum(1).clip(1))[:, None]
    result = []
    for m, name in enumerate(data.model_names):
        rows = known[:, m]
        n = int(rows.sum())
        spread = float(quality[rows, m].std(ddof=1)) if n > 1 else math.nan
        result.append(
            ModelSummary(
                model=name,
                answered=n,
                coverage=n / len(data) if len(data) else math.nan,
                quality=_mean(quality[:, m]),
                quality_error=spread / math.sqrt(n) if n > 1 else math.nan,
                ahead=_mean(ahead[:, m]),
                best_on=wins[name],
                cost_usd=_mean(cost[:, m]),
                cost_known=_share(np.isfinite(cost[:, m]), rows),
                latency_s=_mean(latency[:, m]),
            )
        )
    return tuple(sorted(result, key=lambda s: -s.quality if s.answered else math.inf))


def _best_per_dataset(
    data: RoutingData, quality: Floats, datasets: tuple[DatasetSummary, ...]
) -> float:
    best = {
        d.dataset: data.model_names.index(d.best_model)
        for d in datasets
        if d.best_model is not None
    }
    rows = [i for i, name in enumerate(data.datasets) if name in best]
    columns = [best[data.datasets[i]] for i in rows]
    return _mean(quality[rows, columns]) if rows else math.nan


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    return float((part & whole).sum() / whole.sum()) if whole.any() else math.nan


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
