"""Two random routings of one input, trained to agree.

    loss = loss_1 + loss_2 + alpha * 1/2 [KL(p || q) + KL(q || p)]

with p and q the predictions of two forward passes that draw anew: experts, dropout, noise. It needs
nothing of a router but that it is stochastic. Losses and divergence are means over the same tokens;
where a published alpha weighs sums over tokens, it is the same alpha.

Source: THOR (arXiv 2110.04260, equations 4 and 5).

Shape letters: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.core import symmetric_divergence
from wye.moe.base import MoEError
from wye.moe.learning.training import next_token_loss


@dataclass(frozen=True)
class TwoDraws:
    """What two forward passes on one input gave.

    Attributes:
        loss: to be minimised, a scalar.
        task: loss_1 + loss_2.
        divergence: mean symmetric divergence of the predictions, in nats.
    """

    loss: Tensor
    task: Tensor
    divergence: Tensor


def two_draws(
    run: Callable[[], tuple[Tensor, Tensor]],
    *,
    alpha: float,
    counted: Tensor | None = None,
) -> TwoDraws:
    """Run twice and add the disagreement of the predictions to both losses.

    Gradients flow through both passes. Activation checkpointing and gradient accumulation work as
    they do for a single pass; see `wye.moe.parts.draws` for micro-batches that must share a draw.

    Args:
        run: one forward pass: logits `[..., V]` and their mean loss, a scalar.
        alpha: weight of the divergence, >= 0.
        counted: `[...]` booleans, False where a prediction is padding; the loss of `run` is the
            mean over the same places.

    Raises:
        MoEError: a negative alpha.

    Example:
        >>> import torch
        >>> def run():
        ...     logits = torch.randn(5, 3)
        ...     return logits, logits.square().mean()
        >>> bool(two_draws(run, alpha=1.0).divergence > 0)
        True
    """
    if not alpha >= 0:
        raise MoEError(f"alpha={alpha}, expected a number >= 0")
    first, first_loss = run()
    second, second_loss = run()
    flat = None if counted is None else counted.reshape(-1)
    divergence: Tensor = symmetric_divergence(
        first.flatten(0, -2).float(), second.flatten(0, -2).float(), counted=flat
    )
    task = first_loss + second_loss
    return TwoDraws(task + alpha * divergence, task, divergence)


def consistent_next_token_loss(
    model: nn.Module, ids: Tensor, generator: Generator, *, alpha: float
) -> Tensor:
    """An objective for `wye.moe.train`, through `functools.partial`: two draws of a language model.

    In evaluation mode it is the cross-entropy of one pass.

    Args:
        model: maps ids `[B, L]` to logits `[B, L, V]`.
        ids: `[B, L + 1]`.
        generator: of the objective's own draws; it has none.
        alpha: as in `two_draws`.
    """
    if not model.training:
        return next_token_loss(model, ids, generator)

    def run() -> tuple[Tensor, Tensor]:
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        return logits, loss

    return two_draws(run, alpha=alpha).loss


@torch.no_grad()
def disagreement(model: nn.Module, ids_BL: Tensor) -> float:
    """Mean symmetric divergence, in nats per token, of two passes of `model` over the same ids.

    The model must draw anew in every pass, as with `wye.moe.parts.draws.inference` and a generator.
    """
    first, second = (model(ids_BL).flatten(0, 1).float() for _ in range(2))
    return float(symmetric_divergence(first, second))
