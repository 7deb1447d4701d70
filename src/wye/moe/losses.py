"""Auxiliary losses that need no change in the model's code.

A loss carried on an activation is an identity in the forward pass; in the backward pass it starts
the gradient of the loss with 1 times the scale. So a router's losses are trained on whatever the
model's own loss is, without a return value of their own. The scale is the one thing that such a
gradient cannot learn from the main loss: where the main loss is divided by a number of
micro-batches or multiplied by a gradient scaler, say so with `loss_scale`.

Source: the auto-scaler of auxiliary losses of Megatron-LM, as the foundations of the field have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_scale = 1.0


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (loss,) = ctx.saved_tensors
        return gradient, torch.full_like(loss, _scale)


def carry(x: Tensor, loss: Tensor) -> Tensor:
    """`x` itself; its backward pass also runs that of `loss`, with gradient `loss_scale`.

    Args:
        x: any activation that the training loss depends on.
        loss: a scalar.

    Example:
        >>> import torch
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> carry(torch.ones(2, requires_grad=True), w * w).sum().backward()
        >>> float(w.grad)
        6.0
    """
    if not (loss.requires_grad and torch.is_grad_enabled()):
        return x
    return _Carried.apply(x, loss)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def loss_scale(scale: float) -> Iterator[None]:
    """Multiply the gradients of carried losses by `scale` in backward passes run inside.

    With A accumulated micro-batches whose main loss is divided by A, scale = 1/A; with a gradient
    scaler, its scale (times 1/A).

    Example:
        >>> import torch
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> with loss_scale(0.5):
        ...     carry(torch.ones(2, requires_grad=True), w * w).sum().backward()
        >>> float(w.grad)
        3.0
    """
    global _scale
    before, _scale = _scale, float(scale)
    try:
        yield
    finally:
        _scale = before


def recomputing() -> bool:
    """Whether this runs inside a backward pass, as the second run under checkpointing does.

    What counts forward passes (loads, draws) must not count that run again.
    """
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)


def aux_loss(model: nn.Module) -> Tensor:
    """The sum of the auxiliary losses of the last forward pass, over all routed layers of `model`.

    Layers that carry their losses on the activation (the default) contribute a value without
    gradient, so that adding the sum to the main loss never counts them twice. Build them with
    `carries_losses=False` to add the losses by hand; under reentrant activation checkpointing that
    cannot work, since its forward pass builds no graph: use `use_reentrant=False`, or carry.

    Args:
        model: any module that contains routed layers.

    Returns:
        A scalar; 0 without routed layers or before the first forward pass.
    """
    from wye.moe.base import routed_layers

    total: Tensor | None = None
    for layer in routed_layers(model).values():
        if layer._last is None:
            continue
        for loss in layer._last.losses.values():
            total = loss if total is None else total + loss
    return torch.zeros(()) if total is None else total


def aux_losses(model: nn.Module) -> dict[str, dict[str, float]]:
    """The values behind `aux_loss`: by layer, then by name."""
    from wye.moe.base import routed_layers

    return {
        name: {kind: float(loss.detach()) for kind, loss in layer._last.losses.items()}
        for name, layer in routed_layers(model).items()
        if layer._last is not None
    }
