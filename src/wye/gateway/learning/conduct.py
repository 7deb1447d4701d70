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
)
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
    versions = VersionBook(engine)
    return ExperimentBook(engine).start(
        name, kind, versions.get(version).id, versions.wanted().version, share=share, plan=plan
    )


def stop_experiment(
    engine: sa.Engine, found: Experiment, *, promote: bool = False, reason: str = ""
) -> Experiment:
    """End an experiment, and have its candidate decide everything where it is promoted.

    One that has ended already can be promoted still.

    Args:
        reason: why, for those who read it later.

    Raises:
        ExperimentError: it has ended already.
        VersionsError: the candidate decides already.
    """
    book = ExperimentBook(engine)
    if found.state == RUNNING:
        _end(engine, found, "promoted" if promote else "stopped", reason or "by command")
    elif not promote:
        raise ExperimentError(f"the experiment {found.name!r} has ended already, as {found.state}")
    if promote:
        VersionBook(engine).use(found.version, reason or f"promoted from {found.name!r}")
    return book.by_id(found.id)


def roll_back(engine: sa.Engine, reason: str) -> Undone:
    """Undo the last change: end a canary or A/B that runs, else take the version before.

    Raises:
        VersionsError: nothing decided before.
    """
    versions = VersionBook(engine)
    acting = _acting(engine)
    for one in acting:
        _end(engine, one, "stopped", reason or "rolled back")
    if acting:
        return Undone(tuple(acting), versions.wanted().version)
    return Undone((), versions.rollback(reason))


def refuse_while_compared(engine: sa.Engine) -> None:
    """Whether what decides may change.

    Raises:
        ExperimentError: an experiment compares with it.
    """
    for running in _acting(engine):
        raise ExperimentError(
            f"the experiment {running.name!r} compares with what decides at present; end it "
            f"first: wye experiment stop {running.name!r}"
        )


def _acting(engine: sa.Engine) -> list[Experiment]:
    return [one for one in ExperimentBook(engine).running() if one.kind != "shadow"]


def _end(engine: sa.Engine, found: Experiment, state: str, reason: str) -> None:
    result: Mapping[str, Any]
    if found.kind == "shadow":
        result = {"shadow": shadow_summary(engine, found)}
    else:
        result = analyse(engine, found).to_dict()
    ExperimentBook(engine).end(found.id, state, reason, result)
