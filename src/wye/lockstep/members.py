"""Members: Hugging Face causal language models, and any function from ids to logits.

Shape letters: B batch, L length, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wye.lockstep.base import LockstepError, Member, Reading, check_ids

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""ids `[B, L]` -> logits `[B, L, V]` and hidden states `[B, L, D]`."""


class FunctionMember(Member):
    """A member that is a function from ids to logits and hidden states, without a cache of its own.

    What it remembers is the text, which it runs again.

    Args:
        module: the model whose parameters the function uses.
        forward: causal: logits at a place depend on ids up to it.
        vocabulary: V.
        width: D.
        layers: in order, where hidden states may be read and changed between them; each returns
            them, or a tuple that begins with them.

    Example:
        >>> table = nn.Embedding(4, 3)
        >>> member = FunctionMember(
        ...     table, lambda ids: (table(ids) @ table.weight.T, table(ids)), vocabulary=4, width=3
        ... )
        >>> member.read(torch.tensor([[1, 2]])).logits.shape
        torch.Size([1, 2, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        *,
        vocabulary: int,
        width: int,
        layers: Sequence[nn.Module] = (),
    ) -> None:
        if vocabulary < 1 or width < 1:
            raise LockstepError(
                f"vocabulary={vocabulary} and width={width}, expected at least 1 each"
            )
        self.module, self._forward = module, forward
        self.vocabulary, self.width, self.layers = vocabulary, width, tuple(layers)

    def read(self, ids_BL: Tensor, memory: Any = None, *, remember: bool = False) -> Reading:
        """As `Member.read`."""
        check_ids(ids_BL)
        whole = ids_BL if memory is None else torch.cat([memory, ids_BL], dim=1)
        logits, hidden = self._forward(whole)
        expected = [(*whole.shape, self.vocabulary), (*whole.shape, self.width)]
        if [tuple(logits.shape), tuple(hidden.shape)] != expected:
            raise LockstepError(
                f"the member gave logits {tuple(logits.shape)} and hidden states "
                f"{tuple(hidden.shape)}, expected {expected[0]} and {expected[1]}"
            )
        n = ids_BL.shape[1]
        return Reading(logits[:, -n:], hidden[:, -n:], whole if remember else None)


class HuggingFaceMember(Member):
    """A causal language model of transformers, with its own cache of keys and values.

    Args:
        model: `AutoModelForCausalLM` of any family with an output layer.
        tokenizer: its tokenizer, by whose vocabulary members are compared.

    Raises:
        LockstepError: no output layer, or no list of layers as long as its config says.
    """

    incremental = True

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.module: nn.Module = model
        get_output = getattr(model, "get_output_embeddings", None)
        head = None if get_output is None else get_output()
        if head is None or not hasattr(model, "config"):
            raise LockstepError(
                f"{type(model).__name__} has no output layer, expected a causal language model of "
                "transformers; put another model behind FunctionMember"
            )
        config: Any = model.config
        text = config.get_text_config()
        self._head: nn.Module = head
        self.vocabulary = int(text.vocab_size)
        self.width = int(text.hidden_size)
        self.layers = _layers(model, int(text.num_hidden_layers))
        self.tokens = None if tokenizer is None else dict(tokenizer.get_vocab())

    def read(self, ids_BL: Tensor, memory: Any = None, *, remember: bool = False) -> Reading:
        """As `Member.read`; the hidden states are what the output layer gets."""
        check_ids(ids_BL)
        kept: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
        try:
            output = self.module(
                input_ids=ids_BL, past_key_values=memory, use_cache=remember or memory is not None
            )
        finally:
            hook.remove()
        return Reading(output.logits, kept[-1], output.past_key_values if remember else None)


def _layers(model: nn.Module, n: int) -> tuple[nn.Module, ...]:
    lists = [tuple(m) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n]
    if not lists:
        raise LockstepError(
            f"{type(model).__name__} has no list of the {n} layers that its config speaks of"
        )
    return max(lists, key=_size)


def _size(layers: tuple[nn.Module, ...]) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())
