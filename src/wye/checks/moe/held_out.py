"""What a trained language model does to held-out tokens: routing and loss, token by token.

Shape letters: B batch, L length, S = B L tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import Context, routed_layers
from wye.moe.learning.training import windows
from wye.moe.models.language_model import LanguageModel


@dataclass(frozen=True)
class Tokens:
    """One batch of held-out tokens.

    Attributes:
        ids: `[S]` the byte that was read.
        loss: `[S]` nats of the byte that follows.
        plans: by routed layer.
        context: of the tokens, the same for every layer.
    """

    ids: Tensor
    loss: Tensor
    plans: Mapping[str, Plan]
    context: Context

    @property
    def fan_out(self) -> Tensor:
        """`[S]` experts of each token, summed over layers."""
        return torch.stack([plan.fan_out() for plan in self.plans.values()]).sum(dim=0)


@torch.no_grad()
def held_out_tokens(
    model: LanguageModel, text: bytes | Tensor, *, batches: int = 8, batch: int = 16
) -> Iterator[Tokens]:
    """Windows of the model's length from fixed places of `text`, routed in evaluation mode.

    Args:
        model: with at least one routed layer.
        text: bytes or ids `[n]`.
        batches: number of batches.
        batch: B.
    """
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8) if isinstance(text, bytes) else text
    generator = torch.Generator().manual_seed(0)
    layers = routed_layers(model)
    model.eval()
    for _ in range(batches):
        window = windows(ids, batch, model.length, generator)
        logits = model(window[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits.float(), window[:, 1:].flatten(), reduction="none")
        plans = {name: layer.last.plan for name, layer in layers.items()}
        context = next(iter(layers.values())).last_context
        yield Tokens(window[:, :-1].flatten(), loss, plans, context)
