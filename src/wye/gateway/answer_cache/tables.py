"""The table of the store for answers that are given again."""

from __future__ import annotations

import sqlalchemy as sa

from wye.gateway.metadata import metadata

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False, index=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("baseline_usd", sa.Float),
    sa.Column("near", sa.String(64)),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary),
)
