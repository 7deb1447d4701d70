"""Training small heads by gradient: named arrays in, named arrays out.

A head is a handful of arrays and a loss over rows of the training set. PyTorch (the extra `torch`)
is needed while it learns, never to predict: what comes back are NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import MissingPartError, RouterError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Loss = Callable[[dict[str, "Tensor"], "Tensor", "Generator"], "Tensor"]


def require_torch(system: str) -> Any:
    """The module `torch`.

    Raises:
        MissingPartError: it is not installed; the message names the extra.
    """
    if find_spec("torch") is None:
        raise MissingPartError(
            f"{system} learns with PyTorch, which is not installed; install it with: "
            'pip install "wye[torch]"'
        )
    import torch

    return torch


def train_head(
    system: str,
    arrays: Mapping[str, NDArray[Any]],
    loss: Loss,
    n_rows: int,
    *,
    epochs: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    held_out_share: float = 0.0,
    patience: int = 5,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Minimise `loss` over `arrays` by AdamW, with a cosine schedule, on one device: the CPU.

    Args:
        system: who trains, for errors.
        arrays: where each parameter starts.
        loss: of (parameters as float32 tensors, rows `[B]` of a batch, generator) a scalar. The
            generator is seeded; noise of the loss comes from it. Evaluated without gradient on the
            rows held out.
        n_rows: how many rows there are to draw batches from.
        epochs: passes over the rows.
        batch: rows of one step.
        learning_rate, weight_decay: of AdamW.
        held_out_share: of the rows kept to stop early on; 0 runs all epochs.
        patience: epochs without a better held-out loss before it stops; the best arrays return.
        seed: of the order of rows and of the generator.

    Returns:
        The arrays, trained, float32.

    Raises:
        RouterError: PyTorch is not installed, no rows, or the loss stops being a number.
    """
    torch = require_torch(system)
    if n_rows < 1:
        raise RouterError(f"{system} has no rows to learn from; give more outcomes")
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.tensor(np.asarray(value, np.float32), requires_grad=True)
        for name, value in arrays.items()
    }
    order = torch.randperm(n_rows, generator=generator)
    held_out, rows = order[: int(held_out_share * n_rows)], order[int(held_out_share * n_rows) :]
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=learning_rate, weight_decay=weight_decay
    )
    steps = max(1, epochs * -(-len(rows) // batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_arrays, waited = float("inf"), _numpy(parameters), 0
    for _ in range(epochs):
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        for part in shuffled.split(batch):
            optimiser.zero_grad()
            value = loss(parameters, part, generator)
            if not torch.isfinite(value):
                raise RouterError(
                    f"the loss of {system} is {value.item()}; lower learning_rate={learning_rate}"
                )
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if len(held_out):
            with torch.no_grad():
                now = float(loss(parameters, held_out, generator))
            if now < best:
                best, best_arrays, waited = now, _numpy(parameters), 0
            else:
                waited += 1
                if waited >= patience:
                    break
    return best_arrays if len(held_out) else _numpy(parameters)


def _numpy(parameters: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().numpy().copy() for name, value in parameters.items()}
