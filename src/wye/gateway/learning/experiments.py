"""Experiments in the store: a version that is tried on a part of the traffic, or in its shadow.

    shadow  it decides every request (or a share), and its choices are logged and never followed
    canary  it decides a small share of the units; it is stopped by itself when it harms
    ab      the same with a share of one half as a rule; it ends as soon as one arm is better

One experiment at a time acts, so that no request is in two of them; shadows run beside it.
"""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from wye.errors import WyeError
from wye.gateway.learning.steps import step, wanted
from wye.gateway.learning.tables import experiments
from wye.gateway.records import new_id

Kind = Literal["shadow", "canary", "ab"]
By = Literal["session", "key"]
_MOST_UNITS = 1e9
RUNNING = "running"
KINDS: tuple[Kind, ...] = ("shadow", "canary", "ab")
SHARES: Mapping[str, float] = {"shadow": 1.0, "canary": 0.05, "ab": 0.5}


class ExperimentError(WyeError):
    """An experiment cannot be begun, found or ended; the message says what to do."""


@dataclass(frozen=True)
class Plan:
    """How an experiment is judged; fixed when it begins.

    Attributes:
        by: what a unit is: a session, or a key.
        alpha: probability of a wrong verdict that is accepted, over all looks and all metrics.
        cost_weight: reward = quality - cost_weight x cost in USD.
        least: units of each arm before anything is concluded.
        cost_limit: by which share the candidate may cost more than the control before it counts as
            harm; None for any.

    Raises:
        ExperimentError: a value is impossible.
    """

    by: By = "session"
    alpha: float = 0.05
    cost_weight: float = 0.0
    least: int = 30
    cost_limit: float | None = None

    def __post_init__(self) -> None:
        if self.by not in ("session", "key"):
            raise ExperimentError(f"by is {self.by!r:.80}; expected session or key")
        if not 0.0 < _number("alpha", self.alpha) < 1.0:
            raise ExperimentError(f"alpha is {self.alpha}; expected a number between 0 and 1")
        if not 0.0 <= _number("cost_weight", self.cost_weight) < math.inf:
            raise ExperimentError(f"cost_weight is {self.cost_weight}; expected at least 0")
        if self.cost_limit is not None and not (
            0.0 <= _number("cost_limit", self.cost_limit) < math.inf
        ):
            raise ExperimentError(f"cost_limit is {self.cost_limit}; expected at least 0")
        if not 2 <= _number("least", self.least) < _MOST_UNITS or self.least != int(self.least):
            raise ExperimentError(
                f"least is {self.least}; expected a whole number of at least 2 units"
            )


@dataclass(frozen=True)
class Experiment:
    """An experiment as the store knows it.

    Attributes:
        version: what is tried.
        control: the version that decided when it began; None where wye.toml did.
        share: of the units that fall into the candidate's arm.
        state: "running"; "stopped" by command; "harmful", "better" or "worse" by its own rule;
            "promoted" where the candidate was put to use.
        started, ended: seconds since 1970.
        reason: why it ended.
        result: the analysis at its end.
    """

    id: str
    name: str
    kind: Kind
    version: str
    control: str | None
    share: float
    plan: Plan
    state: str
    started: float
    ended: float | None
    reason: str | None
    result: Mapping[str, Any] | None


class ExperimentBook:
    """The experiments of one store.

    Args:
        engine: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def start(
        self,
        name: str,
        kind: str,
        version: str,
        *,
        share: float | None = None,
        plan: Plan | None = None,
    ) -> Experiment:
        """Begin an experiment at every gateway of the store, against what decides at that moment.

        Raises:
            ExperimentError: another one of that name or kind runs, or a value is impossible.
        """
        name = _clean(name)
        if kind not in KINDS:
            raise ExperimentError(f"kind is {kind!r:.80}; expected {', '.join(KINDS)}")
        share = SHARES[kind] if share is None else share
        if not 0.0 < _number("share", share) <= 1.0 or (kind != "shadow" and share == 1.0):
            limit = "at most 1" if kind == "shadow" else "below 1"
            raise ExperimentError(f"share is {share}; expected a number above 0 and {limit}")
        with step(self._engine) as connection:
            control = wanted(connection).version
            if version == control:
                raise ExperimentError(f"{version} decides already; try another version")
            found = Experiment(
                id=new_id(),
                name=name,
                kind=kind,
                version=version,
                control=control,
                share=share,
                plan=plan or Plan(),
                state=RUNNING,
                started=self._clock(),
                ended=None,
                reason=None,
                result=None,
            )
            for other in running(connection):
                _refuse_beside(other, found)
            row = {**vars(found), "plan": asdict(found.plan)}
            connection.execute(sa.insert(experiments).values(row))
        return found

    def latest(self, limit: int = 100) -> list[Experiment]:
        """The latest experiments, newest first."""
        query = sa.select(experiments).order_by(experiments.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]

    def running(self) -> list[Experiment]:
        """Those that run, oldest first."""
        with self._engine.connect() as connection:
            return running(connection)

    def get(self, name: str) -> Experiment:
        """The latest experiment of a name.

        Raises:
            ExperimentError: there is none.
        """
        found = [one for one in self.latest(1000) if one.name == name]
        if not found:
            known = ", ".join(dict.fromkeys(one.name for one in self.latest(20))) or "none"
            raise ExperimentError(f"there is no experiment {name!r}; known are {known}")
        return found[0]

    def by_id(self, experiment: str) -> Experiment:
        """The experiment of an id.

        Raises:
            ExperimentError: there is none.
        """
        query = sa.select(experiments).where(experiments.c.id == experiment)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise ExperimentError(f"there is no experiment with the id {experiment[:80]!r}")
        return _read(row)

    def end(
        self, experiment: str, state: str, reason: str, result: Mapping[str, Any] | None
    ) -> bool:
        """End one that runs; False where it had ended already, here or elsewhere."""
        with self._engine.begin() as connection:
            return self.end_within(connection, experiment, state, reason, result)

    def end_within(
        self,
        connection: sa.Connection,
        experiment: str,
        state: str,
        reason: str,
        result: Mapping[str, Any] | None,
    ) -> bool:
        """The same, in a transaction that does more."""
        statement = (
            sa.update(experiments)
            .where(experiments.c.id == experiment, experiments.c.state == RUNNING)
            .values(state=state, reason=reason, result=result, ended=self._clock())
        )
        return connection.execute(statement).rowcount == 1


def running(connection: sa.Connection) -> list[Experiment]:
    """The experiments that run as a transaction sees it, oldest first."""
    query = sa.select(experiments).where(experiments.c.state == RUNNING).order_by(experiments.c.id)
    return [_read(row) for row in connection.execute(query).mappings()]


def acting(connection: sa.Connection) -> list[Experiment]:
    """Those of them that compare with what decides."""
    return [one for one in running(connection) if one.kind != "shadow"]


def refuse_while_compared(connection: sa.Connection) -> None:
    """Whether what decides may change.

    Raises:
        ExperimentError: an experiment compares with it.
    """
    for one in acting(connection):
        raise ExperimentError(
            f"the experiment {one.name!r} compares with what decides at present; end it first: "
            f"wye experiment stop {one.name!r}"
        )


def _refuse_beside(other: Experiment, begun: Experiment) -> None:
    """Whether one may begin while another runs.

    Raises:
        ExperimentError: it may not.
    """
    if other.name == begun.name:
        raise ExperimentError(f"the experiment {begun.name!r} runs already")
    if "shadow" not in (other.kind, begun.kind):
        raise ExperimentError(
            f"the experiment {other.name!r} ({other.kind}) runs; a request can be in one at a "
            f"time: wye experiment stop {other.name!r}"
        )


def _read(row: sa.RowMapping) -> Experiment:
    return Experiment(**{**row, "plan": Plan(**row["plan"])})


def _number(name: str, value: object) -> float:
    """A value that came from anywhere, as a number.

    Raises:
        ExperimentError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExperimentError(f"{name} is {value!r:.80}; expected a number")
    try:
        return float(value)
    except OverflowError:
        raise ExperimentError(f"{name} is a number of too many digits") from None


def _clean(name: str) -> str:
    name = unicodedata.normalize("NFC", name).strip()
    strange = [c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    if not name or len(name) > 100 or strange:
        raise ExperimentError(
            f"{name[:120]!r} cannot be an experiment's name; expected 1 to 100 characters on one "
            "line"
        )
    return name
