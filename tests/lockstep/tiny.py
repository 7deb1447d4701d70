"""Tiny members: byte-level models, and models of transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wye.lockstep import FunctionMember, HuggingFaceMember
from wye.moe.models.language_model import LanguageModel

VOCABULARY = 23


def byte_member(
    seed: int, *, n_layers: int = 2, width: int = 16, vocabulary: int = VOCABULARY
) -> FunctionMember:
    """A byte-level model with random weights, without a cache."""
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))]
    layers += [nn.Linear(width, width) for _ in range(n_layers - 1)]
    model = LanguageModel(layers, width=width, length=64, vocabulary=vocabulary, n_heads=2)

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        hook = model.norm.register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            return model(ids), kept[0]
        finally:
            hook.remove()

    return FunctionMember(
        model, forward, vocabulary=vocabulary, width=width, layers=list(model.blocks)
    )


def cached_member(
    seed: int,
    *,
    n_layers: int = 2,
    width: int = 16,
    vocabulary: int = VOCABULARY,
    tokenizer: object = None,
) -> HuggingFaceMember:
    """A Llama of transformers with random weights, with its own cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    return HuggingFaceMember(LlamaForCausalLM(config).eval(), tokenizer)


def ids(seed: int, *shape: int, vocabulary: int = VOCABULARY) -> Tensor:
    """Random ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, shape, generator=generator)


def silent(member: FunctionMember) -> FunctionMember:
    """The same member with logits of zero."""
    return FunctionMember(
        member.module,
        lambda x: (member.read(x).logits * 0, member.read(x).hidden),
        vocabulary=member.vocabulary,
        width=member.width,
    )


def reading_again(member: HuggingFaceMember) -> FunctionMember:
    """The same model without its cache: the naive oracle of whoever remembers."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        reading = member.read(x)
        return reading.logits, reading.hidden

    return FunctionMember(
        member.module,
        forward,
        vocabulary=member.vocabulary,
        width=member.width,
        layers=member.layers,
    )
