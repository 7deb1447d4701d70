"""Tables of the store for versions of policies, contexts of learners, shadows and experiments."""

from __future__ import annotations

import sqlalchemy as sa

from wye.gateway.metadata import metadata

policy_versions = sa.Table(
    "policy_versions",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("policies", sa.JSON, nullable=False),
    sa.Column("default_policy", sa.Text, nullable=False),
    sa.Column("router", sa.Text),
    # The router's folder as one archive; null where priors alone estimate.
    sa.Column("artefact", sa.LargeBinary),
)

# Which version was put to use when; the last row says which one decides. Null: that of wye.toml.
policy_uses = sa.Table(
    "policy_uses",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    # "use", or "rollback" to what decided before.
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("version", sa.String(16)),
    sa.Column("reason", sa.Text, nullable=False),
)

# What each running gateway decides by.
policy_gateways = sa.Table(
    "policy_gateways",
    metadata,
    sa.Column("gateway", sa.String(36), primary_key=True),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("version", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
)

# What a learner read of a query, so that a judgement which comes later can teach it.
contexts = sa.Table(
    "contexts",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("reader", sa.String(64), nullable=False),
    sa.Column("targets", sa.JSON, nullable=False),
    sa.Column("context", sa.LargeBinary, nullable=False),
    sa.Column("expected", sa.LargeBinary, nullable=False),
)

shadow_decisions = sa.Table(
    "shadow_decisions",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("experiment", sa.String(36), primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("policy_version", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("propensity", sa.Float, nullable=False),
    # The probability with which it would have chosen what was really chosen; null: not told.
    sa.Column("acted", sa.Float),
    sa.Column("quality", sa.Float),
    sa.Column("cost_usd", sa.Float),
)

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("version", sa.String(16), nullable=False),
    sa.Column("control", sa.String(16)),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("reason", sa.Text),
    sa.Column("result", sa.JSON(none_as_null=True)),
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("experiment", sa.String(36), nullable=False, index=True),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("unit", sa.String(32), nullable=False),
)

# What was spent beside answers, for instance on judging them.
overheads = sa.Table(
    "overheads",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("cost_usd", sa.Float),
    sa.Column("result", sa.Text, nullable=False),
)

# What was spent so on a day (since 1970, UTC), in nanodollars, and what is set aside of it.
overhead_days = sa.Table(
    "overhead_days",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("spent", sa.BigInteger, nullable=False),
)
