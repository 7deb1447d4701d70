"""Training a few tensors of a model whose other weights stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wye.adapter.base import AdapterError
from wye.adapter.lora_modules import only_training

StepLoss = Callable[[int], Tensor]
"""Number of the step, from 0 -> scalar loss."""


def train_tensors(
    model: nn.Module,
    tensors: Sequence[nn.Parameter],
    loss: StepLoss,
    *,
    steps: int,
    rate: float = 1e-3,
    clip: float = 1.0,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Minimise `loss` over `tensors` alone by AdamW without weight decay.

    Args:
        model: runs in training mode, and is left in the mode it was in.
        tensors: what may change; every other parameter of `model` is frozen meanwhile.
        loss: called once a step.
        steps: optimiser steps.
        rate: constant learning rate.
        clip: largest norm of the gradient.
        progress: gets the number of steps done and the loss.

    Returns:
        The loss of every step.

    Raises:
        AdapterError: nothing to train, no steps, or a loss that is not finite.
    """
    if not tensors:
        raise AdapterError("there is nothing to train: the module is in no layer of this model")
    if steps < 1:
        raise AdapterError(f"steps={steps}, expected at least 1")
    seen: list[float] = []
    mode = model.training
    with only_training(model, tensors):
        optimiser = torch.optim.AdamW(tensors, lr=rate, weight_decay=0.0, fused=True)
        model.train()
        try:
            for step in range(steps):
                value = loss(step)
                seen.append(float(value.detach()))
                if not math.isfinite(seen[-1]):
                    raise AdapterError(
                        f"the loss is {seen[-1]} at step {step}: lower rate={rate}, or look for "
                        "answers without tokens"
                    )
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(tensors, clip)
                optimiser.step()
                if progress is not None:
                    progress(step + 1, seen[-1])
        finally:
            model.train(mode)
    return seen
