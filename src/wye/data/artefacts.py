"""Datasets whose outcomes are more likely a failure of the grader than of the model.

A model that beats others everywhere else and falls far behind most of them on one dataset did
probably not lose its skill there: the extraction of its answers failed. A router that learns such a
dataset gains by the failure.

Shape letters: M models, G datasets.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wye.data.routing_data import RoutingData

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Artefact:
    """One suspicious dataset.

    Attributes:
        kind: `reversal` (a model far behind models that it beats elsewhere) or `unsolved` (no model
            scores on it).
        dataset: its name.
        model: the model that falls behind; None for `unsolved`.
        quality: mean quality there of that model (of the best model for `unsolved`).
        quality_elsewhere: mean quality of the same model on all other datasets.
        behind: for `reversal`, how many of the models that it beats elsewhere it falls behind.
        beaten_elsewhere: how many models it beats elsewhere and shares enough queries with.
        difference: mean paired difference to those that it falls behind (negative).
        high: upper end of the interval of the least of these differences.
        queries: queries of the dataset that the model answered.
    """

    kind: Literal["reversal", "unsolved"]
    dataset: str
    model: str | None
    quality: float
    quality_elsewhere: float
    behind: int
    beaten_elsewhere: int
    difference: float
    high: float
    queries: int

    def describe(self) -> str:
        """The finding in one sentence."""
        if self.kind == "unsolved":
            return (
                f"{self.dataset}: no model scores (best {self.quality:.3f} on {self.queries} "
                "queries); look at how answers are graded"
            )
        return (
            f"{self.dataset}: {self.model} scores {self.quality:.3f} here and "
            f"{self.quality_elsewhere:.3f} elsewhere, and falls behind {self.behind} of the "
            f"{self.beaten_elsewhere} models that it beats elsewhere (by {-self.difference:.2f}, "
            f"at least {-self.high:.2f}); report figures with and without it"
        )


def find_artefacts(
    data: RoutingData,
    *,
    confidence: float = 0.95,
    margin: float = 0.1,
    floor: float = 0.05,
    least_queries: int = 20,
) -> tuple[Artefact, ...]:
    """Datasets with a reversal or that no model solves.

    On each dataset, models are compared in pairs on the queries that both answered. The interval of
    the mean difference is that of Agresti and Min for matched proportions (half an observation
    added to each cell), at a level that holds for all comparisons together (Bonferroni). A model is
    reported where its difference is below `-margin` with confidence against most of the models that
    it beats, with confidence, on all other datasets, and its own quality has fallen below that
    elsewhere by more than `margin` (upper end of Wilson's interval): where it has not, others are
    specialists, and nothing failed.

    Args:
        data: outcomes of at least two models on at least two datasets; otherwise nothing is found.
        confidence: of all intervals together, 0 to 1.
        margin: quality by which a model must at least fall behind, 0 to 1.
        floor: a dataset is unsolved where the interval of its best model ends below this quality.
        least_queries: pairs with fewer shared queries on a dataset are not compared.

    Returns:
        The findings, largest first.

    Source: Agresti and Min (2005), Statistics in Medicine 24, for the interval.
    """
    names = [str(d) for d in dict.fromkeys(data.datasets)]
    if len(names) < 2 or len(data.models) == 0:
        return ()
    means = _means(data, names)
    pairs = _pairs(data.quality, data.datasets, names)
    found = _reversals(pairs, means, confidence, margin, least_queries)
    found += _unsolved(means, confidence, floor, least_queries)
    return tuple(_with_quality(found, means, data.model_names, names))


@dataclass(frozen=True)
class _Finding:
    dataset: int
    model: int | None
    behind: int = 0
    beaten: int = 0
    difference: float = float("nan")
    high: float = float("nan")


def _pairs(
    quality: Floats, datasets: NDArray[np.object_], names: list[str]
) -> tuple[Floats, Floats, Floats]:
    """`[G, M, M]` shared queries, and sum and sum of squares of quality_i - quality_j on them."""
    counts, sums, squares = [], [], []
    for name in names:
        q = quality[datasets == name]
        known = np.isfinite(q).astype(np.float64)
        x = np.where(known > 0, q, 0.0)
        counts.append(known.T @ known)
        sums.append(x.T @ known - known.T @ x)
        squares.append((x**2).T @ known - 2 * x.T @ x + known.T @ x**2)
    return np.stack(counts), np.stack(sums), np.stack(squares)


def _interval(n: Floats, total: Floats, square: Floats, z: float) -> tuple[Floats, Floats, Floats]:
    mean = total / (n + 2)
    error = np.sqrt(np.maximum((square + 1) / (n + 2) - mean**2, 0.0) / (n + 2))
    return mean - z * error, mean, mean + z * error


def _wilson_high(mean: Floats, n: Floats, z: float) -> Floats:
    """Upper end of Wilson's interval, which is sound at a mean of zero; 1 without observations."""
    n = np.maximum(n, 1e-12)
    middle = np.nan_to_num(mean) + z**2 / (2 * n)
    half = z * np.sqrt(np.nan_to_num(mean * (1 - mean)) / n + z**2 / (4 * n**2))
    return np.minimum((middle + half) / (1 + z**2 / n), 1.0)


def _reversals(
    pairs: tuple[Floats, Floats, Floats],
    means: tuple[Floats, Floats, Floats],
    confidence: float,
    margin: float,
    least_queries: int,
) -> list[_Finding]:
    n_G, sum_G, square_G = pairs
    here, elsewhere, counts = means
    compared_G = (n_G >= least_queries) & ~np.eye(n_G.shape[1], dtype=bool)
    tests = max(int(compared_G.sum()), 1)
    z = NormalDist().inv_cdf(1 - (1 - confidence) / (2 * tests))
    with np.errstate(invalid="ignore"):
        fallen = _wilson_high(here, counts, z) < elsewhere - margin
    found = []
    for g in range(n_G.shape[0]):
        low_elsewhere, _, _ = _interval(
            n_G.sum(0) - n_G[g], sum_G.sum(0) - sum_G[g], square_G.sum(0) - square_G[g], z
        )
        _, difference, high = _interval(n_G[g], sum_G[g], square_G[g], z)
        beats = (low_elsewhere > 0) & compared_G[g]
        behind = beats & (high < -margin)
        most = (behind.sum(1) > 0) & (2 * behind.sum(1) > beats.sum(1))
        for m in np.flatnonzero(most & fallen[g]):
            row = behind[m]
            found.append(
                _Finding(
                    g,
                    int(m),
                    int(row.sum()),
                    int(beats[m].sum()),
                    float(difference[m][row].mean()),
                    float(high[m][row].max()),
                )
            )
    return sorted(found, key=lambda f: f.difference)


def _unsolved(
    means: tuple[Floats, Floats, Floats], confidence: float, floor: float, least_queries: int
) -> list[_Finding]:
    here, _, counts = means
    z = NormalDist().inv_cdf(1 - (1 - confidence) / (2 * here.size))
    tried = counts >= least_queries
    low = (_wilson_high(here, counts, z) < floor) | ~tried
    return [_Finding(int(g), None) for g in np.flatnonzero(low.all(1) & tried.any(1))]


def _means(data: RoutingData, names: list[str]) -> tuple[Floats, Floats, Floats]:
    """`[G, M]` mean quality on each dataset and on all others, and outcomes on each."""
    quality = data.quality
    known = np.isfinite(quality)
    member = (data.datasets[None, :] == np.asarray(names, dtype=object)[:, None]).astype(float)
    n_GM = member @ known
    sum_GM = member @ np.where(known, quality, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sum_GM / n_GM, (sum_GM.sum(0) - sum_GM) / (n_GM.sum(0) - n_GM), n_GM


def _with_quality(
    found: list[_Finding],
    means: tuple[Floats, Floats, Floats],
    models: tuple[str, ...],
    names: list[str],
) -> list[Artefact]:
    here, elsewhere, counts = means
    result = []
    for f in found:
        m = int(np.nanargmax(here[f.dataset])) if f.model is None else f.model
        result.append(
            Artefact(
                kind="unsolved" if f.model is None else "reversal",
                dataset=names[f.dataset],
                model=None if f.model is None else models[m],
                quality=float(here[f.dataset, m]),
                quality_elsewhere=float(elsewhere[f.dataset, m]),
                behind=f.behind,
                beaten_elsewhere=f.beaten,
                difference=f.difference,
                high=f.high,
                queries=int(counts[f.dataset, m]),
            )
        )
    return result
