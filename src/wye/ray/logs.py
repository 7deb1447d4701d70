"""Outcomes that fit no machine, as a Ray Data set: one row for each answer whose quality is known.

Columns: `text`, `model`, `quality` (0 to 1), and `cost_usd`, `latency_s`, `propensity` where known
(NaN otherwise). `propensity` is the probability with which the model was chosen; where every model
answered every query there was no choice, and it is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import sqlalchemy as sa

from wye.gateway.dialects import Place, StoreError, place_of, shown
from wye.gateway.schema import connect, decisions, feedback, outcomes
from wye.ray.serving import RayError, require_ray

if TYPE_CHECKING:
    from ray.data import Dataset

    from wye.data import RoutingData

COLUMNS = ("text", "model", "quality", "cost_usd", "latency_s", "propensity")
_NUMBERS = COLUMNS[2:]


def outcome_rows(source: str | Path, *, block: int = 50_000) -> Dataset:
    """The judged answers of a gateway's store, or of Parquet files with the columns above.

    Args:
        source: a store (see `wye.gateway.dialects.place_of`, reachable from every worker), or a
            Parquet file or a folder of them.
        block: decisions of the store that one task reads.

    Raises:
        RayError: Ray is not installed, or there is nothing to read.
    """
    require_ray()
    import ray.data

    try:
        place = place_of(source)
        if isinstance(place, Path) and (place.is_dir() or place.suffix == ".parquet"):
            return _of_parquet(place)
        ranges = _ranges(place, block)
    except StoreError as error:
        raise RayError(str(error)) from error
    if not ranges:
        raise RayError(f"{shown(place)} holds no decisions")
    # The address goes to the workers as it was given: they take the password from their own
    # environment.
    items = [{"store": str(source), **found} for found in ranges]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_range, batch_size=1, batch_format="pandas"
    )


def frame_of(data: RoutingData) -> pd.DataFrame:
    """The rows of outcomes in memory: every model's answer to every query, chosen by nobody."""
    query, model = np.nonzero(np.isfinite(data.quality))
    texts, names = np.array(data.texts, object), np.array(data.model_names, object)
    return pd.DataFrame(
        {
            "text": texts[query],
            "model": names[model],
            "quality": data.quality[query, model],
            "cost_usd": data.cost[query, model],
            "latency_s": data.latency[query, model],
            "propensity": 1.0,
        }
    )


def _of_parquet(path: Path) -> Dataset:
    import ray.data

    found = ray.data.read_parquet(str(path))
    names = found.schema().names
    missing = [name for name in COLUMNS[:3] if name not in names]
    if missing:
        raise RayError(
            f"{path} has the columns {', '.join(names)}; text, model and quality are needed"
        )
    return found.map_batches(_with_all_columns, batch_format="pandas")


def _with_all_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column, as numbers where they are numbers; rows without a quality left out."""
    whole = frame.reindex(columns=list(COLUMNS))
    numbers = {name: whole[name].astype("float64") for name in _NUMBERS}
    whole = whole.assign(**numbers)
    return whole[whole["quality"].notna() & whole["text"].notna()]


def _ranges(place: Place, block: int) -> list[dict[str, str]]:
    """Ids of decisions that a task begins and ends at, both included."""
    engine = connect(place, create=False)
    numbered = sa.select(
        decisions.c.id, sa.func.row_number().over(order_by=decisions.c.id).label("number")
    ).subquery()
    place_in_block = (numbered.c.number - 1) % block
    edges = (
        sa.select(numbered.c.id)
        .where(sa.or_(place_in_block == 0, place_in_block == block - 1))
        .order_by(numbered.c.id)
    )
    try:
        with engine.connect() as connection:
            ids = list(connection.execute(edges).scalars())
            last = connection.execute(sa.select(sa.func.max(decisions.c.id))).scalar()
    finally:
        engine.dispose()
    if block == 1:
        return [{"first": one, "last": one} for one in ids]
    if len(ids) % 2:
        ids.append(last)
    return [{"first": a, "last": b} for a, b in zip(ids[::2], ids[1::2], strict=True)]


def _read_range(items: pd.DataFrame) -> pd.DataFrame:
    item = items.iloc[0]
    engine = connect(place_of(item["store"]), connections=1, create=False)
    mine = feedback.c.decision_id.between(item["first"], item["last"])
    newest = sa.select(sa.func.max(feedback.c.number)).where(mine).group_by(feedback.c.decision_id)
    query = (
        sa.select(
            decisions.c.text,
            outcomes.c.target.label("model"),
            feedback.c.quality,
            outcomes.c.cost_usd,
            outcomes.c.latency_s,
            # After a fallback nobody chose who answered.
            sa.case((decisions.c.target == outcomes.c.target, decisions.c.propensity)).label(
                "propensity"
            ),
        )
        .join(outcomes, outcomes.c.decision_id == decisions.c.id)
        .join(feedback, feedback.c.decision_id == decisions.c.id)
        .where(
            decisions.c.id.between(item["first"], item["last"]),
            feedback.c.number.in_(newest),
            decisions.c.text.is_not(None),
            outcomes.c.status == "ok",
            outcomes.c.target.is_not(None),
        )
        .order_by(decisions.c.id)
    )
    try:
        with engine.connect() as connection:
            return _with_all_columns(pd.read_sql(query, connection))
    finally:
        engine.dispose()
