"""An online router as arrays and JSON values, and back: to be stored, and to go on elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from wye.embed import get_embedder
from wye.query.base import RouterError
from wye.query.online.tickets import OpenTickets

if TYPE_CHECKING:
    from wye.query.online.base import OnlineRouter


def state_of(router: OnlineRouter) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by part, and everything else as JSON values."""
    parts: dict[str, Mapping[str, NDArray[Any]]] = {
        "embedder": router.embedder_.get_state(),
        "reader": router.reader_.get_state(),
        "bandit": router.bandit_.get_state(),
        "familiarity": router.familiarity_.get_state(),
        "open": router.open_.arrays(),
        **{f"head.{name}": head.get_state() for name, head in router.heads_.items()},
    }
    arrays = {f"{part}/{k}": v for part, held in parts.items() for k, v in held.items()}
    values = {
        "embedder": router.embedder_.name,
        "generator": router.generator_.bit_generator.state,
        "watches": {m: [w.up, w.down] for m, w in router.watches_.items()},
        "open": router.open_.values(),
        "scale": router.scale_state(),
    }
    return arrays, values


def restore(
    router: OnlineRouter, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]
) -> None:
    """Put `router`, whose models are set, into the state that `state_of` gave.

    Raises:
        RouterError: the state was learned with another embedder.
    """
    embedder = get_embedder(router.embedder)
    embedder.set_state(_part(arrays, "embedder"))
    if embedder.name != values["embedder"]:
        raise RouterError(
            f"the router was learned on the vectors of {values['embedder']!r}, but here "
            f"{router.embedder!r} is {embedder.name!r}; install that version or train again"
        )
    router.begin(router.models_, embedder)
    router.reader_.set_state(_part(arrays, "reader"))
    router.set_scale_state(values["scale"])
    router.begin_arms()
    router.bandit_.set_state(_part(arrays, "bandit"))
    for name, head in router.heads_.items():
        head.set_state(_part(arrays, f"head.{name}"))
    router.familiarity_.set_state(_part(arrays, "familiarity"))
    router.open_ = OpenTickets.restored(router.max_open, _part(arrays, "open"), values["open"])
    router.generator_.bit_generator.state = values["generator"]
    for name, (up, down) in values["watches"].items():
        router.watches_[name].up, router.watches_[name].down = float(up), float(down)


def _part(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    return {k.split("/", 1)[1]: v for k, v in arrays.items() if k.split("/", 1)[0] == part}
