"""From the sizes of a model to its feed-forward layers.

A system says how its layers are built in `build(shape, ...)`: one feed-forward module per layer,
which may share parts across layers (a recurrent router, a bank of experts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import nn

from wye.moe.base import MoEError, Router
from wye.moe.experts import Experts
from wye.moe.layer import MoELayer


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the feed-forward layers of a model.

    Attributes:
        n_layers: layers with experts.
        width: D.
        hidden: F of one expert.
        n_experts: E.
        k: experts per token, for systems that fix their number.

    Raises:
        MoEError: a size below 1, or k above n_experts.
    """

    n_layers: int
    width: int
    hidden: int
    n_experts: int
    k: int = 2

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MoEError(f"{item.name}={value!r}, expected an integer of at least 1")
        if self.k > self.n_experts:
            raise MoEError(f"k={self.k} with {self.n_experts} experts, expected k <= n_experts")


def routed_stack(
    shape: Shape,
    make_router: Callable[[int], Router],
    *,
    gated: bool = True,
    activation: str = "silu",
    make_shared: Callable[[int], nn.Module] | None = None,
    gate_shared: bool = False,
    carries_losses: bool = True,
) -> list[nn.Module]:
    """One `MoELayer` per layer, each with its own router and experts.

    Args:
        shape: sizes.
        make_router: layer index -> router of that layer.
        gated: experts are gated (SwiGLU) rather than plain.
        activation: of the experts.
        make_shared: layer index -> dense part that every token passes.
        gate_shared: as in `MoELayer`.
        carries_losses: as in `RoutedModule`.
    """
    return [
        MoELayer(
            make_router(index),
            Experts(shape.n_experts, shape.width, shape.hidden, gated=gated, activation=activation),
            shared=None if make_shared is None else make_shared(index),
            gate_shared=gate_shared,
            carries_losses=carries_losses,
        )
        for index in range(shape.n_layers)
    ]
