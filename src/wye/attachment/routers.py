"""From what a user says to one router per attached layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from wye.attachment.errors import AttachError
from wye.moe.base import Router
from wye.moe.build import Shape
from wye.moe.layer import MoELayer
from wye.moe.registry import build_layers, get_router, parameters_of, router_parameters

RouterFactory = Callable[[int, int, int, int], Router]
"""(layer index, width D, number of experts E, experts per token k) -> router of that layer."""


def routers_by_name(
    name: str, count: int, width: int, n_experts: int, k: int, parameters: Mapping[str, Any]
) -> list[Router]:
    """`count` routers of the system called `name`.

    Where the system says how the routers of several layers belong together (one recurrent cell, one
    schedule over depth), they are built together.

    Args:
        name: of a system.
        count: layers.
        width: D.
        n_experts: E.
        k: handed to the system where it takes one.
        parameters: of the system.

    Raises:
        AttachError: a system that is more than a router.
        MoEError: an unknown system, or a parameter that it does not have.
    """
    together = parameters_of(name)
    if set(parameters) <= set(together):
        # The experts of these layers are thrown away, so they are as small as can be.
        shape = Shape(n_layers=count, width=width, hidden=1, n_experts=n_experts, k=k)
        layers = build_layers(name, shape, **parameters)
        plain = [layer for layer in layers if type(layer) is MoELayer]
        # Layers that reuse the experts of others choose among more than the model's own.
        fits = all(layer.router.n_experts == n_experts for layer in plain)
        if len(plain) == count and fits:
            return [layer.router for layer in plain]
    known = router_parameters(name)
    if known is None:
        raise AttachError(
            f"{name} is more than a router: its layers run their experts in a way of their own, "
            "which no router attached to a model can. Build a model with "
            f"wye.moe.build_layers({name!r}, shape)"
        )
    given = {"k": k, **parameters} if "k" in known else dict(parameters)
    return [get_router(name, width, n_experts, **given) for _ in range(count)]


def routers_by_factory(
    factory: RouterFactory, indices: list[int], width: int, n_experts: int, k: int
) -> list[Router]:
    """One router per layer index, as the user's function makes them.

    Raises:
        AttachError: it returns no router, or one of another width or number of experts.
    """
    made = []
    for index in indices:
        router = factory(index, width, n_experts, k)
        if not isinstance(router, Router):
            raise AttachError(
                f"the router factory returned {type(router).__name__} for layer {index}, expected "
                "a wye.moe.Router"
            )
        if (router.width, router.n_experts) != (width, n_experts):
            raise AttachError(
                f"the router factory returned a router of width {router.width} for "
                f"{router.n_experts} experts for layer {index}, expected width {width} and "
                f"{n_experts} experts"
            )
        made.append(router)
    return made


def takes_four(factory: Callable[..., Any]) -> bool:
    """Whether `factory` can be called as a `RouterFactory`."""
    try:
        inspect.signature(factory).bind(0, 1, 1, 1)
    except TypeError:
        return False
    return True
