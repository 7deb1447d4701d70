"""Experiments begun, ended and undone: the same for the command line, the API and the dashboard.

What is refused is refused here or in the books below (`wye.gateway.learning.experiments`,
`wye.gateway.learning.versions`), so that no way in allows what another does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.learning.analysis import analyse, shadow_summary
from wye.gateway.learning.experiments import (
    RUNNING,
    Experiment,
    ExperimentBook,
    ExperimentError,
    Plan,
    acting,
)
from wye.gateway.learning.steps import step, wanted
from wye.gateway.learning.versions import CONFIGURED, VersionBook


@dataclass(frozen=True)
class Undone:
    """What a rollback changed.

    Attributes:
        ended: the experiments that it ended.
        version: what decides; None for what each gateway's own wye.toml says.
    """

    ended: tuple[Experiment, ...]
    version: str | None

    @property
    def decides(self) -> str:
        """What decides, in words."""
        return self.version or f"what {CONFIGURED} says"


def start_experiment(
    engine: sa.Engine,
    name: str,
    kind: str,
    version: str,
    *,
    share: float | None = None,
    plan: Plan | None = None,
) -> Experiment:
    """Begin an experiment at every gateway of the store.

    Args:
        version: its id, or the beginning of it.
        share: of the units; by kind where it is None.

    Raises:
        ExperimentError: it cannot be begun.
        VersionsError: there is no such version.
    """
    tried = VersionBook(engine).get(version).id
    return ExperimentBook(engine).start(name, kind, tried, share=share, plan=plan)


def stop_experiment(
    engine: sa.Engine, found: Experiment, *, promote: bool = False, reason: str = ""
) -> Experiment:
    """End an experiment, and have its candidate decide everything where it is promoted.

    One that has ended already can be promoted still.

    Args:
        reason: why, for those who read it later.

    Raises:
        ExperimentError: it has ended already, or another one compares with what decides.
        VersionsError: the candidate decides already.
    """
    book = ExperimentBook(engine)
    runs = found.state == RUNNING
    # Before the step, which keeps others waiting.
    result = _result(engine, found) if runs else None
    with step(engine) as connection:
        state, why = "promoted" if promote else "stopped", reason or "by command"
        if runs:
            runs = book.end_within(connection, found.id, state, why, result)
        if promote:
            VersionBook(engine).use_within(
                connection, found.version, reason or f"promoted from {found.name!r}"
            )
    ended = book.by_id(found.id)
    if not (runs or promote):
        raise ExperimentError(f"the experiment {found.name!r} has ended already, as {ended.state}")
    return ended


def roll_back(engine: sa.Engine, reason: str) -> Undone:
    """Undo the last change: end a canary or A/B that runs, else take the version before.

    Raises:
        VersionsError: nothing decided before.
    """
    book, versions = ExperimentBook(engine), VersionBook(engine)
    while True:
        compared = [one for one in book.running() if one.kind != "shadow"]
        results = {one.id: _result(engine, one) for one in compared}
        with step(engine) as connection:
            if any(one.id not in results for one in acting(connection)):
                # It began since, and is to be looked at too.
                continue
            if not compared:
                return Undone((), versions.rollback_within(connection, reason))
            for one in compared:
                book.end_within(
                    connection, one.id, "stopped", reason or "rolled back", results[one.id]
                )
            return Undone(tuple(compared), wanted(connection).version)


def _result(engine: sa.Engine, found: Experiment) -> Mapping[str, Any]:
    """What is known of an experiment at its end."""
    if found.kind == "shadow":
        return {"shadow": shadow_summary(engine, found)}
    return analyse(engine, found).to_dict()
