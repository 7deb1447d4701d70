"""Under which names each target has answered, over all gateways of a store and all restarts."""

from __future__ import annotations

import time
from contextlib import suppress

import sqlalchemy as sa

from wye.gateway.schema import identities

Pair = tuple[str, str]
# A system that answers under several fingerprints in turn is known after so many answers.
SETTLED = 200


class Identities:
    """Tells a name or a fingerprint that a target has not answered with before.

    Args:
        engine: of the store, where what is known is kept.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known: dict[str, set[Pair]] = {}
        self._answers: dict[str, int] = {}
        with engine.connect() as connection:
            for row in connection.execute(sa.select(identities)):
                self._known.setdefault(row.target, set()).add((row.model, row.fingerprint))
                self._answers[row.target] = SETTLED

    def take(self, target: str, model: str | None, fingerprint: str | None) -> str | None:
        """Note an answer; what is new about who gave it, None where nothing is.

        The first names of a target are what it is. A further fingerprint is told only once enough
        answers came before, since one model may run on several systems.
        """
        pair = (model or "", fingerprint or "")
        known = self._known.setdefault(target, set())
        count = self._answers[target] = self._answers.get(target, 0) + 1
        if pair in known:
            return None
        models = {name for name, _ in known}
        first = not known
        known.add(pair)
        self._keep(target, pair)
        if first or pair == ("", ""):
            return None
        if pair[0] not in models:
            before = ", ".join(sorted(name or "no name" for name in models))
            return f"answers as {pair[0] or 'no name'!r}, before as {before}"
        if count > SETTLED:
            return f"answers with the fingerprint {pair[1]!r}, which it never had before"
        return None

    def _keep(self, target: str, pair: Pair) -> None:
        row = {"target": target, "model": pair[0], "fingerprint": pair[1]}
        # Another gateway of the store may have met it at the same time.
        with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
            connection.execute(sa.insert(identities).values(first_seen=time.time(), **row))
