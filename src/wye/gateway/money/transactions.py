"""Transactions of which it is known in the end whether they were committed.

A server that dies while it commits leaves its client in doubt: what was done may be there or not,
and neither doing it again nor leaving it is right. So each transaction takes a receipt before it is
committed (`wye.gateway.dialects.receipt_of`), by which the server can be asked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from wye.gateway.dialects import STORE_ERRORS, receipt_of, was_committed

Result = TypeVar("Result")


class InDoubtError(Exception):
    """A transaction may have been committed or not, and the server cannot be asked at present.

    Attributes:
        receipt: for `committed`.
        result: what the work returned, which holds if it was committed.
        cause: why the commit failed.
    """

    def __init__(self, receipt: str, result: Any, cause: Exception) -> None:
        super().__init__(str(cause))
        self.receipt = receipt
        self.result = result
        self.cause = cause


def committed(engine: sa.Engine, receipt: str) -> bool:
    """Whether the transaction with a receipt was committed.

    Raises:
        DBAPIError, TimeoutError: the server cannot be asked, or does not know yet.
    """
    with engine.connect() as connection:
        return was_committed(connection, receipt)


def run(engine: sa.Engine, work: Callable[[sa.Connection], Result]) -> Result:
    """Do work in one transaction and commit it.

    Raises:
        InDoubtError: it may have been committed or not.
        Exception: what the work raised, or why it was not committed.
    """
    with engine.connect() as connection:
        transaction = connection.begin()
        result = work(connection)
        receipt = receipt_of(connection)
        try:
            transaction.commit()
        except STORE_ERRORS as error:
            if receipt is None:
                raise
            broken: Exception = error
        else:
            return result
    try:
        if committed(engine, receipt):
            return result
    except STORE_ERRORS:
        raise InDoubtError(receipt, result, broken) from broken
    raise broken
