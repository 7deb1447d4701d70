"""Byte-level language models as members of a lock-step group.

Shape letters: B batch, L length, V vocabulary, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from wye.lockstep import FunctionMember
from wye.moe.models.language_model import LanguageModel


def dense_model(*, n_layers: int, width: int, length: int, n_heads: int = 4) -> LanguageModel:
    """A model over bytes whose feed-forwards are dense, 4 D wide, with random weights."""
    layers = [
        nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for _ in range(n_layers)
    ]
    return LanguageModel(layers, width=width, length=length, n_heads=n_heads)


def byte_member(model: LanguageModel) -> FunctionMember:
    """The member that shows the model's blocks and what its output layer reads."""

    def forward(ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        hook = model.norm.register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            logits: Tensor = model(ids_BL)
        finally:
            hook.remove()
        return logits, kept[0]

    return FunctionMember(
        model,
        forward,
        vocabulary=model.vocabulary,
        width=model.width,
        layers=list(model.blocks),
    )
