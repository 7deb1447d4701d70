"""A gateway's lease: a row that says it lives, so that what a dead one had reserved is found.

Every gateway that reserves writes the time into its row now and then. Whose row is older than the
lease, or whose process is seen to be gone from this machine, is dead; its row is taken away.

Clocks of machines that share a store must agree to well within a lease. Where they do not, a living
gateway may be taken for dead; then its reservations count as spent until it settles them itself.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from wye.gateway.records import new_id
from wye.gateway.schema import leases

# Gateways of this very process, which its number alone cannot tell from a dead namesake's.
_HERE: set[str] = set()


class Lease:
    """One gateway's row.

    Args:
        seconds: how long a row holds without being renewed.
        clock: seconds since 1970.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.id = new_id()
        self.seconds = seconds
        self._clock = clock
        _HERE.add(self.id)

    def renew(self, connection: sa.Connection) -> None:
        """Say that this gateway lives; also after others took it for dead."""
        mine = sa.update(leases).where(leases.c.id == self.id).values(seen=self._clock())
        if connection.execute(mine).rowcount == 0:
            row = {"id": self.id, "machine": machine(), "pid": os.getpid(), "seen": self._clock()}
            connection.execute(sa.insert(leases), row)

    def take_from_the_dead(self, connection: sa.Connection) -> None:
        """Take away the rows of gateways that do not live."""
        silent = leases.c.seen < self._clock() - self.seconds
        connection.execute(sa.delete(leases).where(silent, leases.c.id != self.id))
        here = sa.select(leases.c.id, leases.c.pid).where(leases.c.machine == machine())
        for lease, pid in connection.execute(here).all():
            if not _lives(lease, pid):
                connection.execute(sa.delete(leases).where(leases.c.id == lease))

    def give_up(self, connection: sa.Connection) -> None:
        """Take away this gateway's own row, at its end."""
        connection.execute(sa.delete(leases).where(leases.c.id == self.id))

    def forget(self) -> None:
        """This gateway no longer lives in this process."""
        _HERE.discard(self.id)


@cache
def machine() -> str:
    """What tells apart places with process numbers of their own: machines, boots, containers."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        # Not Linux: the name of the machine must do.
        return parts[0]
    return " ".join(parts)


def _lives(lease: str, pid: int) -> bool:
    """Whether a gateway of this machine runs; a number that is used again looks as if it did."""
    if pid == os.getpid():
        return lease in _HERE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
