"""Steps that change what decides, one after another at all gateways of a store.

What a step depends on (which version is wanted, which experiment compares with it) it reads in its
own transaction, so that of two at one moment the later one sees what the earlier one did.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa

from wye.gateway.dialects import exclude_others
from wye.gateway.learning.tables import policy_uses


class Wanted(NamedTuple):
    """What should decide: the number of the use, 0 for none, and the version, None: wye.toml's."""

    number: int
    version: str | None


@contextmanager
def step(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction beside which nobody takes another step, here or elsewhere."""
    with engine.begin() as connection:
        exclude_others(connection)
        yield connection


def wanted(connection: sa.Connection) -> Wanted:
    """What should decide, as a transaction sees it."""
    query = sa.select(policy_uses.c.number, policy_uses.c.version).order_by(
        policy_uses.c.number.desc()
    )
    row = connection.execute(query.limit(1)).first()
    return Wanted(row[0], row[1]) if row is not None else Wanted(0, None)
