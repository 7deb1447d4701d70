"""Linear from sums: ridge regression for each model, learned from a log in blocks.

Routes a query to a model, before an answer exists, on its embedding and text features. As `linear`
in kind, for logs that fit no machine: everything it learns are sums over rows
(`wye.query.learning.sums`), so that blocks may be read anywhere, in any order, and added
(`wye.ray.training`); on one machine it learns the same from one block. Source: ridge routers as in
RouterBench, arXiv 2403.12031; sums as in Chu et al., Map-Reduce for Machine Learning on Multicore,
NIPS 2006, section 4.

Shape letters: Q queries, M models, D columns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder, EmbedError, get_embedder
from wye.query.arguments import check_data, checked_texts
from wye.query.base import Estimate, FloatArray, NotFittedError, QueryRouter, RouterError
from wye.query.learning.familiarity import Familiarity
from wye.query.learning.features import FEATURES
from wye.query.learning.named_arrays import restored_embedder
from wye.query.learning.ridge import PENALTIES
from wye.query.learning.sums import FeatureScale, FeatureSums, Rows, RowSums, Sketch, Solved, solve

if TYPE_CHECKING:
    from wye.data import RoutingData

WIDEST_STD = 0.5
_SOLVED = ("coef", "intercept", "noise", "center", "shapes", "counts")


@dataclass(frozen=True)
class Learned:
    """Sums of some rows: all that the router learns from.

    Attributes:
        rows: products of columns and qualities.
        sketch: questions to tell by how new a query is.
    """

    rows: RowSums
    sketch: Sketch

    def __add__(self, other: Learned) -> Learned:
        return Learned(self.rows + other.rows, self.sketch + other.sketch)


@dataclass(kw_only=True, eq=False, repr=False)
class LinearSumsRouter(QueryRouter):
    """Ridge regression of each model's quality, learned from sums.

    Args:
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder` that learns nothing itself.
        max_references: questions kept to tell how new a query is.

    Attributes:
        models_: names of the models.
        scale_: of the text features.
        solved_: the regressions.
    """

    name = "linear-sums"

    embedder: str | Embedder = "static"
    max_references: int = 1024

    def fit(self, data: RoutingData) -> Self:
        """Learn from outcomes. Missing outcomes are unknown, never wrong.

        Raises:
            RouterError: a parameter is wrong, or `data` has no known outcome.
        """
        check_data(data)
        rows = rows_of(data)
        if not len(rows.texts):
            raise RouterError(
                f"{data.name} has no known outcome ({len(data.texts)} queries, "
                f"{len(data.model_names)} models); a router learns from at least one"
            )
        scale = FeatureSums.of(rows.texts).scale()
        learned = self.sums_of(rows, scale, len(data.model_names))
        return self.learn(learned, scale, data.model_names)

    def sums_of(self, rows: Rows, scale: FeatureScale, n_models: int) -> Learned:
        """What a block of rows adds to what is learned.

        Raises:
            RouterError: a parameter is wrong, or the embedder cannot work.
        """
        most = self.max_references
        if not isinstance(most, int | np.integer) or most < 1:
            raise RouterError(f"max_references is {most!r}, expected a whole number of 1 or more")
        texts, place = np.unique(np.array(rows.texts, dtype=object), return_inverse=True)
        distinct = [str(text) for text in texts]
        vectors = self._embed(get_embedder(self.embedder), distinct)
        columns = scale.columns(vectors, distinct)[place]
        sketch = Sketch.of(distinct, vectors, int(most))
        return Learned(RowSums.of(rows, columns, n_models), sketch)

    def learn(self, learned: Learned, scale: FeatureScale, models: Sequence[str]) -> Self:
        """Solve from the sums of all rows.

        Raises:
            RouterError: no row has a known quality.
        """
        if not learned.rows.gram[:, :, 0, 0].any():
            raise RouterError("no outcome has a known quality; a router learns from at least one")
        self.embedder_ = get_embedder(self.embedder)
        self.learned_from_ = None
        self.models_ = tuple(models)
        self.scale_ = scale
        self.solved_ = solve(learned.rows, PENALTIES)
        self.lines_ = np.stack([_lines(sums) for sums in learned.rows.lines])
        self._refer_to(learned.sketch.vectors)
        return self

    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Expected quality, cost and latency of every model on every text.

        Raises:
            NotFittedError: before `fit`.
            RouterError: `texts` is not a sequence of strings.
        """
        started = time.perf_counter()
        self._require_fitted()
        texts = checked_texts(texts)
        spent = self.embedder_.spent_usd
        vectors = self._embed(self.embedder_, texts)
        columns = self.scale_.columns(vectors, texts)
        solved = self.solved_
        quality = np.clip(columns @ solved.coef + solved.intercept, 0.0, 1.0)
        chars = np.array([len(text) for text in texts], np.float64)[:, None]
        cost, latency = (line[0] + chars * line[1] for line in self.lines_)
        n = max(1, len(texts))
        return Estimate(
            models=self.models_,
            quality=quality,
            quality_std=self._std(columns),
            cost=cost,
            latency=latency,
            novelty=self._familiarity.novelty(vectors),
            router_cost=(self.embedder_.spent_usd - spent) / n,
            router_seconds=(time.perf_counter() - started) / n,
        )

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values."""
        self._require_fitted()
        arrays = {name: np.asarray(getattr(self.solved_, name)) for name in _SOLVED}
        arrays |= {
            "feature_mean": self.scale_.mean,
            "feature_spread": self.scale_.spread,
            "lines": self.lines_,
            "references": self._familiarity.references,
        }
        values = {
            "embedder": self.embedder_.name,
            "features": list(FEATURES),
            "penalty": self.solved_.penalty,
        }
        return arrays, values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the router was learned with another embedder or other text features.
        """
        if list(values["features"]) != list(FEATURES):
            raise RouterError(
                "the router was learned with other text features than this version of wye reads; "
                "train it again"
            )
        self.embedder_ = restored_embedder(self.embedder, values["embedder"], {})
        self.scale_ = FeatureScale(arrays["feature_mean"], arrays["feature_spread"])
        self.solved_ = Solved(
            **{name: arrays[name] for name in _SOLVED}, penalty=float(values["penalty"])
        )
        self.lines_ = np.array(arrays["lines"])
        self._refer_to(np.array(arrays["references"]))

    def _refer_to(self, references: NDArray[np.float32]) -> None:
        self._familiarity = Familiarity(len(references), references.shape[1])
        self._familiarity.add(references)

    def _embed(self, embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            return embedder.embed(texts)
        except EmbedError as error:
            raise RouterError(str(error)) from error

    def _std(self, columns: FloatArray) -> FloatArray:
        """`[Q, M]` how far expected quality may be off."""
        solved = self.solved_
        leverage = [
            (((columns - center) @ shape) ** 2).sum(axis=1)
            for center, shape in zip(solved.center, solved.shapes, strict=True)
        ]
        spread = np.stack(leverage, axis=1) + 1.0 / np.maximum(solved.counts, 1.0)
        # Who never answered may be anything.
        unknown = solved.counts == 0
        return np.where(unknown, WIDEST_STD, np.minimum(solved.noise * np.sqrt(spread), WIDEST_STD))

    def _require_fitted(self) -> None:
        if not hasattr(self, "solved_"):
            raise NotFittedError(f"router {self.name!r} is not fitted; call fit(data) first")


def rows_of(data: RoutingData) -> Rows:
    """The outcomes of which anything is known, one row each."""
    known = np.isfinite(data.quality) | np.isfinite(data.cost) | np.isfinite(data.latency)
    judged: NDArray[np.bool_] = np.isfinite(data.quality).sum(axis=1) > 0
    query, model = np.nonzero(known & judged[:, None])
    texts = data.texts
    return Rows(
        texts=[texts[q] for q in query.tolist()],
        model=model,
        quality=data.quality[query, model],
        cost=data.cost[query, model],
        latency=data.latency[query, model],
    )


def _lines(sums: FloatArray) -> FloatArray:
    """`[2, M]` level and slope of an amount against characters; NaN where none is known.

    A slope that is not above zero is taken as none: a longer prompt is not cheaper.
    """
    n, c, cc, y, cy = sums.T
    count = np.maximum(n, 1.0)
    spread = cc - c * c / count
    slope = np.where(spread > 1e-9 * np.maximum(cc, 1.0), (cy - c * y / count), 0.0)
    slope = np.maximum(slope / np.maximum(spread, 1e-9), 0.0)
    level = np.maximum((y - slope * c) / count, 0.0)
    return np.where(n > 0, np.stack([level, slope]), np.nan)
