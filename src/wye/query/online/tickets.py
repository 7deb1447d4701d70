"""Open tickets: choices of an online router that wait for their outcome.

Shape letters: P open tickets, M models, D context width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.decisions import first_id, format_id
from wye.query.online.feedback import Ticket


class OpenTickets:
    """Tickets by id, the oldest dropped beyond `most`.

    Raises:
        RouterError: `most` below 1.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise RouterError(f"max_open is {most}, expected at least 1")
        self.most = most
        self._open: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._open)

    def give(
        self,
        *,
        targets: tuple[str, ...],
        propensity: float,
        models: tuple[str, ...],
        score: FloatArray,
        context: FloatArray,
        task: str | None,
    ) -> Ticket:
        """A new ticket, which is open from here on."""
        ticket = Ticket(format_id(first_id()), targets, propensity, models, score, context, task)
        self._open[ticket.id] = ticket
        if len(self._open) > self.most:
            del self._open[next(iter(self._open))]
        return ticket

    def get(self, ticket_id: str) -> Ticket:
        """The open ticket of that id.

        Raises:
            RouterError: there is none.
        """
        if not isinstance(ticket_id, str) or ticket_id not in self._open:
            raise RouterError(
                f"ticket {ticket_id!r} is not open: it was used, is older than the last "
                f"{self.most} open ones, or belongs to another router"
            )
        return self._open[ticket_id]

    def close(self, ticket_id: str) -> None:
        """Use up the open ticket of that id."""
        del self._open[self.get(ticket_id).id]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Contexts `[P, D]` and the other numbers of the open tickets."""
        tickets = list(self._open.values())
        width = tickets[0].context.size if tickets else 1
        return {
            "context": np.array([t.context for t in tickets], np.float64).reshape(-1, width),
            "propensity": np.array([t.propensity for t in tickets], np.float64),
        }

    def values(self) -> list[dict[str, Any]]:
        """Ids, targets and tasks of the open tickets, JSON."""
        return [
            {"id": t.id, "targets": list(t.targets), "models": list(t.models), "task": t.task}
            for t in self._open.values()
        ]

    @classmethod
    def restored(
        cls, most: int, arrays: Mapping[str, NDArray[Any]], values: Sequence[Mapping[str, Any]]
    ) -> OpenTickets:
        """What `arrays` and `values` returned; the scores of the choices are not kept."""
        restored = cls(most)
        for i, value in enumerate(values):
            models = tuple(value["models"])
            restored._open[value["id"]] = Ticket(
                id=value["id"],
                targets=tuple(value["targets"]),
                propensity=float(arrays["propensity"][i]),
                models=models,
                score=np.full(len(models), np.nan),
                context=np.array(arrays["context"][i]),
                task=value["task"],
            )
        return restored
