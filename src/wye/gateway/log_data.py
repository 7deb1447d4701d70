"""From the gateway's log to outcome data, for `wye train --from-log`.

One query per decision whose text was kept; one outcome per decision that was answered and judged,
at the target that answered. An answer that nobody judged has no known quality, so it is no outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from wye.data import DataError, RoutingData
from wye.gateway.dialects import Place, StoreError, name_of, place_of, shown
from wye.gateway.reports import latest_feedback
from wye.gateway.schema import connect, decisions, outcomes, targets

if TYPE_CHECKING:
    import pandas as pd


def read_log(store: str | Place) -> RoutingData:
    """Judged answers of a gateway's store, split into `train` and `test` by question.

    `outcomes` has two columns beyond the schema: `chosen`, the target that the policy chose, and
    `propensity`, the probability with which it chose `model`, the target that answered. After a
    fallback these two differ and the propensity is unknown, since no policy chose who answered;
    `wye replay` evaluates choices instead, and counts what came of one for the target chosen.

    Args:
        store: see `wye.gateway.dialects.place_of`; a gateway may be writing to it.

    Raises:
        DataError: there is no store, no text was kept, or nothing was judged.
    """
    try:
        place = place_of(store)
        engine = connect(place, create=False)
    except StoreError as error:
        raise DataError(str(error)) from error
    try:
        queries, judged, known = _read(engine)
    finally:
        engine.dispose()
    if queries.empty:
        raise DataError(
            f"{shown(place)} holds no text to learn from; set store_prompts = true under "
            "[store] in wye.toml and let some requests come"
        )
    if judged.empty:
        raise DataError(
            f"{shown(place)} holds {len(queries)} requests, none of them judged; send feedback to "
            "POST /v1/feedback, or judge answers on the dashboard"
        )
    return RoutingData(queries, judged, _models(judged, known), name=name_of(place)).split()


def _read(engine: sa.Engine) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    feedback = latest_feedback()
    kept = sa.and_(decisions.c.text.is_not(None), sa.func.trim(decisions.c.text) != "")
    questions = sa.select(decisions.c.id.label("query_id"), decisions.c.text).where(kept)
    answers = (
        sa.select(
            outcomes.c.decision_id.label("query_id"),
            outcomes.c.target.label("model"),
            decisions.c.target.label("chosen"),
            feedback.c.quality,
            outcomes.c.cost_usd,
            outcomes.c.input_tokens,
            outcomes.c.output_tokens,
            outcomes.c.latency_s,
            sa.case((decisions.c.target == outcomes.c.target, decisions.c.propensity)).label(
                "propensity"
            ),
        )
        .join(decisions, decisions.c.id == outcomes.c.decision_id)
        .join(feedback, feedback.c.decision_id == outcomes.c.decision_id)
        .where(kept, outcomes.c.status == "ok", outcomes.c.target.is_not(None))
    )
    with engine.connect() as connection:
        queries = pd.read_sql(questions.order_by(decisions.c.id), connection)
        judged = pd.read_sql(answers.order_by(outcomes.c.decision_id), connection)
        known = pd.read_sql(sa.select(targets), connection)
    judged = judged.astype({"propensity": "float64"})
    return queries.assign(dataset="log", split="train"), judged, known


def _models(judged: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The models table: who answered, at the prices last configured."""
    import pandas as pd

    return (
        pd.DataFrame({"model": sorted(set(judged["model"]))})
        .merge(known, how="left", left_on="model", right_on="name")
        .rename(columns={"kind": "provider"})
        .drop(columns="name")
        .assign(params_b=None)
    )
