"""An online router as arrays and JSON values, and back: to be stored, and to go on elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from wye.query.learning.named_arrays import restored_embedder, together, under
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
    values = {
        "embedder": router.embedder_.name,
        "generator": router.generator_.bit_generator.state,
        "watches": {m: [w.up, w.down] for m, w in router.watches_.items()},
        "open": router.open_.values(),
        "scale": router.scale_state(),
    }
    return together(parts), values


def restore(
    router: OnlineRouter, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]
) -> None:
    """Put `router`, whose models are set, into the state that `state_of` gave.

    Raises:
        RouterError: the state was learned with another embedder.
    """
    embedder = restored_embedder(router.embedder, values["embedder"], under("embedder/", arrays))
    router.begin(router.models_, embedder)
    router.reader_.set_state(under("reader/", arrays))
    router.set_scale_state(values["scale"])
    router.begin_arms()
    router.bandit_.set_state(under("bandit/", arrays))
    for name, head in router.heads_.items():
        head.set_state(under(f"head.{name}/", arrays))
    router.familiarity_.set_state(under("familiarity/", arrays))
    router.open_ = OpenTickets.restored(router.max_open, under("open/", arrays), values["open"])
    router.generator_.bit_generator.state = values["generator"]
    for name, (up, down) in values["watches"].items():
        router.watches_[name].up, router.watches_[name].down = float(up), float(down)
