"""How a gateway stands at this moment: what is told of it beside what lies in the store.

Several workers of one machine (`wye.gateway.workers`) are told of as one: what they do is added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from wye.gateway.breaker import State

if TYPE_CHECKING:
    from wye.gateway.gateway import Gateway
    from wye.gateway.lane import Lane

# From the best to the worst.
_ORDER = (State.CLOSED, State.HALF_OPEN, State.OPEN)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class DeploymentFigures(_Told):
    """The circuit and the load of one server of a target."""

    name: str
    state: State
    retry_after_s: float
    in_flight: int
    weight: float


class TargetFigures(_Told):
    """The circuit and the load of a target.

    Attributes:
        available: whether a request may pass; of several workers, at any of them.
        closed: why it takes no request, where it takes none.
    """

    state: State
    available: bool
    closed: str | None
    deployments: tuple[DeploymentFigures, ...]

    @property
    def in_flight(self) -> int:
        """Requests that its deployments work on."""
        return sum(one.in_flight for one in self.deployments)


class StoreFigures(_Told):
    """Whether records reach the disk; see `wye.gateway.store.StoreHealth`."""

    ok: bool = True
    lost: int = 0
    pending: int = 0
    error: str | None = None


class Figures(_Told):
    """How a gateway stands.

    Attributes:
        running, waiting: requests that hold a place, and that wait for one.
        ledger_error, ledger_waiting: see `wye.gateway.money.group_commit`.
        policy: see `VersionKeeper.health`; empty of a process that is gone.
        traces, shadows: counts since the start, by result.
        monitors: see `Watch.monitors`; empty where nobody asked for them.
    """

    running: int = 0
    waiting: int = 0
    draining: bool = False
    targets: dict[str, TargetFigures] = {}
    store: StoreFigures = StoreFigures()
    ledger_error: str | None = None
    ledger_waiting: int = 0
    policy: dict[str, Any] = {}
    traces: dict[str, int] = {}
    shadows: dict[str, int] = {}
    shadows_waiting: int = 0
    monitors: tuple[dict[str, Any], ...] = ()

    def remains(self) -> Figures:
        """What is left of a process that is gone: what it had counted."""
        store = StoreFigures(lost=self.store.lost)
        return Figures(store=store, traces=self.traces, shadows=self.shadows)


def figures_of(gateway: Gateway, *, monitors: bool = False) -> Figures:
    """How one process stands, from any of its threads.

    Args:
        monitors: tell of them too, which may wait for the watch: not on the event loop.
    """
    store, traces = gateway.store.health(), gateway.onlookers.traces
    shadows, watch = gateway.service.trials.shadows, gateway.onlookers.watch
    return Figures(
        running=gateway.places.running,
        waiting=gateway.places.waiting,
        draining=gateway.places.draining,
        targets={name: _target(lane) for name, lane in gateway.lanes.items()},
        store=StoreFigures(ok=store.ok, lost=store.lost, pending=store.pending, error=store.error),
        ledger_error=gateway.group.error,
        ledger_waiting=gateway.group.waiting,
        policy=gateway.keeper.health(),
        traces={name: getattr(traces, name) if traces else 0 for name in ("sent", "dropped")},
        shadows=dict(shadows.counts),
        shadows_waiting=shadows.waiting,
        monitors=tuple(watch.monitors()) if monitors and watch is not None else (),
    )


def together(figures: Sequence[Figures]) -> Figures:
    """How several processes stand as one.

    Loads and counts are added. A target is as bad as where it stands worst; it is available where
    it is anywhere. By what is decided, and whether it drains, is told of the first alone.

    Args:
        figures: at least one; the first is of the process that is asked.
    """
    first = figures[0]
    if len(figures) == 1:
        return first
    return Figures(
        running=sum(one.running for one in figures),
        waiting=sum(one.waiting for one in figures),
        draining=first.draining,
        targets={
            name: _worst([one.targets[name] for one in figures if name in one.targets])
            for name in first.targets
        },
        store=StoreFigures(
            ok=all(one.store.ok for one in figures),
            lost=sum(one.store.lost for one in figures),
            pending=sum(one.store.pending for one in figures),
            error=_first(one.store.error for one in figures),
        ),
        ledger_error=_first(one.ledger_error for one in figures),
        ledger_waiting=sum(one.ledger_waiting for one in figures),
        policy={**first.policy, "error": _first(one.policy.get("error") for one in figures)},
        traces=_added(one.traces for one in figures),
        shadows=_added(one.shadows for one in figures),
        shadows_waiting=sum(one.shadows_waiting for one in figures),
        monitors=tuple(monitor for one in figures for monitor in one.monitors),
    )


def _target(lane: Lane) -> TargetFigures:
    return TargetFigures(
        state=lane.circuit.state,
        available=lane.circuit.available,
        closed=lane.closed,
        deployments=tuple(
            DeploymentFigures(
                name=one.name,
                state=one.breaker.state,
                retry_after_s=one.breaker.retry_after,
                in_flight=one.in_flight,
                weight=one.weight,
            )
            for one in lane.deployments
        ),
    )


def _worst(found: Sequence[TargetFigures]) -> TargetFigures:
    return TargetFigures(
        state=max((one.state for one in found), key=_ORDER.index),
        available=any(one.available for one in found),
        closed=_first(one.closed for one in found),
        deployments=tuple(
            DeploymentFigures(
                name=same[0].name,
                state=max((one.state for one in same), key=_ORDER.index),
                retry_after_s=max(one.retry_after_s for one in same),
                in_flight=sum(one.in_flight for one in same),
                weight=same[0].weight,
            )
            for same in zip(*(one.deployments for one in found), strict=True)
        ),
    )


def _first(words: Iterable[str | None]) -> str | None:
    return next((one for one in words if one is not None), None)


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
