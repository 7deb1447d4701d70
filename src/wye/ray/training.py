"""Training on Ray Data: sums of every block where it lies, added up, solved once.

The router is `linear-sums`; what it learns here is what it learns on one machine, to floating
point, whatever the blocks and their order. Two passes: the spread of text features, then the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wye.query.learning.sums import FeatureScale, FeatureSums, Rows, RowSums, Sketch
from wye.query.linear_sums import Learned, LinearSumsRouter
from wye.ray.serving import RayError

if TYPE_CHECKING:
    from ray.data import Dataset

# Rows whose columns are in memory at once.
_BATCH = 20_000


def train(
    rows: Dataset, *, embedder: str = "static", max_references: int = 1024
) -> LinearSumsRouter:
    """A router learned from the rows of `wye.ray.logs.outcome_rows`.

    Args:
        rows: with the columns `text`, `model`, `quality`, `cost_usd`, `latency_s`.
        embedder: a spec of `wye.embed.get_embedder`, of one that learns nothing itself.
        max_references: see `LinearSumsRouter`.

    Raises:
        RayError: there are no rows.
    """
    features, models = None, set[str]()
    for found in _results(
        rows.map_batches(_feature_sums, batch_size=_BATCH, batch_format="pandas")
    ):
        part = FeatureSums(int(found["count"]), found["total"], found["squares"])
        features = part if features is None else features + part
        models |= set(str(found["models"]).split("\n"))
    if features is None:
        raise RayError(
            "there are no judged answers to learn from; send feedback, or look elsewhere"
        )
    scale, names = features.scale(), sorted(models)
    summed = rows.map_batches(
        _sums,
        fn_args=(embedder, max_references, scale, names),
        batch_size=_BATCH,
        batch_format="pandas",
    )
    learned = None
    for found in _results(summed):
        part_of = _learned(found, max_references)
        learned = part_of if learned is None else learned + part_of
    if learned is None:
        raise RayError("the rows are gone that were there a moment ago; train again")
    router = LinearSumsRouter(embedder=embedder, max_references=max_references)
    return router.learn(learned, scale, names)


def rows_in(frame: pd.DataFrame, names: list[str]) -> Rows:
    """Rows of a frame with the columns above; `names` are of the models, in order."""
    columns = {name: column for column, name in enumerate(names)}
    return Rows(
        texts=[str(text) for text in frame["text"]],
        model=np.array([columns[str(name)] for name in frame["model"]], np.intp),
        quality=frame["quality"].to_numpy(np.float64),
        cost=frame["cost_usd"].to_numpy(np.float64),
        latency=frame["latency_s"].to_numpy(np.float64),
    )


def _sums(
    frame: pd.DataFrame,
    embedder: str,
    max_references: int,
    scale: FeatureScale,
    names: list[str],
) -> dict[str, Any]:
    if frame.empty:
        return {}
    router = LinearSumsRouter(embedder=embedder, max_references=max_references)
    found = router.sums_of(rows_in(frame, names), scale, len(names))
    arrays = {f.name: getattr(found.rows, f.name)[None] for f in fields(RowSums)}
    return {**arrays, "hashes": found.sketch.hashes[None], "vectors": found.sketch.vectors[None]}


def _feature_sums(frame: pd.DataFrame) -> dict[str, Any]:
    if frame.empty:
        return {}
    found = FeatureSums.of([str(text) for text in frame["text"]])
    models = "\n".join(sorted(set(frame["model"].astype(str))))
    return {
        "count": np.array([found.count]),
        "total": found.total[None],
        "squares": found.squares[None],
        "models": np.array([models], object),
    }


def _results(parts: Dataset) -> Iterator[Mapping[str, Any]]:
    """What the workers sent, of batches that were not empty."""
    for found in parts.iter_rows():
        if found:
            yield found


def _learned(found: Mapping[str, Any], most: int) -> Learned:
    rows = RowSums(**{f.name: np.asarray(found[f.name]) for f in fields(RowSums)})
    hashes = np.asarray(found["hashes"], np.uint64)
    return Learned(rows, Sketch(most, hashes, np.asarray(found["vectors"], np.float32)))
