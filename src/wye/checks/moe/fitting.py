"""Epochs of AdamW over a fixed set of samples, for the checks whose models are no language models.

Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wye.checks.base import CheckError
from wye.moe.base import after_step


def fit(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    n_samples: int,
    *,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
) -> NDArray[np.float64]:
    """Train `model` in place; auxiliary losses ride on its activations.

    Args:
        model: whose parameters are trained.
        loss_of: indices of samples `[S]` -> scalar loss.
        n_samples: of the training set.
        epochs: passes over it.
        batch: S; what is left over at the end of an epoch is a smaller batch.
        rate: constant learning rate.
        seed: of the order of the samples.

    Returns:
        Norm of the gradient in every step.

    Raises:
        CheckError: a loss that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    norms: list[float] = []
    model.train()
    for _ in range(epochs):
        for index in torch.split(torch.randperm(n_samples, generator=generator), batch):
            loss = loss_of(index)
            if not bool(torch.isfinite(loss.detach())):
                raise CheckError(f"the loss is {float(loss.detach())} in step {len(norms) + 1}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            norms.append(
                float(
                    nn.utils.get_total_norm(
                        [p.grad for p in model.parameters() if p.grad is not None]
                    )
                )
            )
            optimiser.step()
            after_step(model)
    model.eval()
    return np.array(norms)
