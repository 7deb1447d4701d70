"""The statements of the books, each one UPDATE or DELETE with its condition inside.

A condition and what it allows are one statement, so that a limit holds whoever else writes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from wye.gateway.schema import accounts, keys, reservations, sessions

_A = accounts.c
# Databases take some ten thousand parameters, and a short transaction lets others pass.
AT_ONCE = 2000
# The cases of an UPDATE see the row as it was; these name its sums as of the given day and month.
_TODAY = sa.bindparam("today", type_=sa.BigInteger())
_THIS_MONTH = sa.bindparam("this_month", type_=sa.BigInteger())
_NEW_DAY, _NEW_MONTH = _A.day < _TODAY, _A.month < _THIS_MONTH
_SPEND = sa.bindparam("spend", type_=sa.BigInteger())
_RESERVE = sa.bindparam("reserve", type_=sa.BigInteger())
_NOW = sa.bindparam("now", type_=sa.Float())


def _within(budget: sa.Column[int], used: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.or_(budget.is_(None), used + _RESERVE <= budget)


def _moved(window: str, new: sa.ColumnElement[bool]) -> dict[str, Any]:
    spent, reserved = _A[f"{window}_spent"], _A[f"{window}_reserved"]
    return {
        f"{window}_spent": sa.case((new, 0), else_=spent) + _SPEND,
        f"{window}_reserved": sa.case((new, 0), else_=reserved) + _RESERVE,
    }


ENTRY = (
    sa.update(accounts)
    .where(_A.key_id == sa.bindparam("key"))
    .values(
        day=sa.case((_NEW_DAY, _TODAY), else_=_A.day),
        month=sa.case((_NEW_MONTH, _THIS_MONTH), else_=_A.month),
        total_spent=_A.total_spent + _SPEND,
        total_reserved=_A.total_reserved + _RESERVE,
        **_moved("day", _NEW_DAY),
        **_moved("month", _NEW_MONTH),
    )
)
RESERVATION = ENTRY.where(
    sa.exists().where(
        keys.c.id == _A.key_id,
        keys.c.revoked.is_(None),
        sa.or_(keys.c.expires.is_(None), keys.c.expires > _NOW),
        _within(keys.c.budget_day, sa.case((_NEW_DAY, 0), else_=_A.day_spent + _A.day_reserved)),
        _within(
            keys.c.budget_month, sa.case((_NEW_MONTH, 0), else_=_A.month_spent + _A.month_reserved)
        ),
        _within(keys.c.budget_total, _A.total_spent + _A.total_reserved),
    )
).returning(_A.day, _A.month)

CORRECTION = (
    sa.update(accounts)
    .where(_A.key_id == sa.bindparam("key"))
    .values(
        total_spent=_A.total_spent + _SPEND,
        total_reserved=_A.total_reserved + _RESERVE,
        day_spent=_A.day_spent + sa.case((_A.day == _TODAY, _SPEND), else_=0),
        day_reserved=_A.day_reserved + sa.case((_A.day == _TODAY, _RESERVE), else_=0),
        month_spent=_A.month_spent + sa.case((_A.month == _THIS_MONTH, _SPEND), else_=0),
        month_reserved=_A.month_reserved + sa.case((_A.month == _THIS_MONTH, _RESERVE), else_=0),
    )
)

SESSION = (
    sa.update(sessions)
    .where(
        sessions.c.key_id == sa.bindparam("key"),
        sessions.c.session == sa.bindparam("name"),
    )
    .values(
        spent=sessions.c.spent + _SPEND,
        reserved=sessions.c.reserved + _RESERVE,
        seen=_NOW,
    )
)
SESSION_RESERVATION = SESSION.where(
    sa.exists().where(
        keys.c.id == sessions.c.key_id,
        _within(keys.c.per_session, sessions.c.spent + sessions.c.reserved),
    )
)
DELETED = (
    sa.delete(reservations)
    .where(reservations.c.id.in_(sa.bindparam("ids", expanding=True)))
    .returning(reservations)
)


def _some(table: sa.Table, *old: sa.ColumnElement[bool]) -> sa.Delete:
    """Delete some rows; the conditions hold again for a row that somebody has changed meanwhile."""
    key = sa.tuple_(*table.primary_key.columns)
    chosen = sa.select(*table.primary_key.columns).where(*old).limit(AT_ONCE)
    return sa.delete(table).where(key.in_(chosen), *old)


_BEFORE = sa.bindparam("before", type_=sa.Float())
SILENT_SESSIONS = _some(sessions, sessions.c.seen < _BEFORE, sessions.c.reserved == 0)
OLD_LAPSES = _some(
    reservations, reservations.c.lapsed.is_(sa.true()), reservations.c.time < _BEFORE
)
