"""From the format of an earlier store to the present one, one step a version.

Tables and indexes that a later version adds are made with the others; a step says only
how tables that exist change. Every step is plain SQL, and all run in one transaction.
"""

from __future__ import annotations

import sqlalchemy as sa

_STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE decisions ADD COLUMN key_id VARCHAR(36)",
        "ALTER TABLE decisions ADD COLUMN session TEXT",
        "ALTER TABLE outcomes ADD COLUMN cached_input_tokens INTEGER",
        "ALTER TABLE outcomes ADD COLUMN cache_write_tokens INTEGER",
        "ALTER TABLE outcomes ADD COLUMN reasoning_tokens INTEGER",
    ),
    2: (
        "ALTER TABLE feedback ADD COLUMN source VARCHAR(16)",
        "DROP INDEX IF EXISTS ix_decisions_time",
        "DROP INDEX IF EXISTS ix_outcomes_time",
    ),
}


def migrate(connection: sa.Connection, found: int) -> None:
    """Bring tables of format `found` to the present format; nothing happens where they have it."""
    for version in sorted(_STEPS):
        if version >= found:
            for statement in _STEPS[version]:
                connection.execute(sa.text(statement))
