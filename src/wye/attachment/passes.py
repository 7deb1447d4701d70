"""What the routers of a model share during one forward pass of it.

A block of a Hugging Face model sees hidden states and nothing else. Which of them are padding,
which tokens they came from, and what the router of the layer below handed up, travels beside them:
a hook on the decoder writes a `Pass` when a forward pass begins, and every attached layer reads it.

The pass also travels as a keyword argument through the decoder layers to their parts, where a hook
takes it out again. So activation checkpointing, which runs a layer a second time with the arguments
of the first, meets the pass that these arguments belong to, even when other passes came between.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wye.attachment.errors import AttachError

_KEYWORD = "wye_pass"


@dataclass(eq=False)
class Pass:
    """One forward pass.

    Attributes:
        batch: B.
        length: L.
        place: `[S]` where the tokens that are no padding stand in the flattened `[B, L]` grid;
            None where none is padding.
        token_ids: `[B L]`; None where the model was given embeddings.
        states: what each attached layer's router handed up, by the index of the layer.
    """

    batch: int
    length: int
    place: Tensor | None
    token_ids: Tensor | None
    states: dict[int, Tensor] = field(default_factory=dict)


class PassHolder:
    """Keeps the pass that is under way; its methods are hooks of the model.

    One forward pass of a model runs at a time: threads that share a model take turns.
    """

    def __init__(self) -> None:
        self.current: Pass | None = None
        self.layers = 0
        self.arrived = 0

    def install(self, decoder: nn.Module, layers: nn.ModuleList) -> list[RemovableHandle]:
        """Hook `decoder` and its `layers`; the handles remove the hooks again."""
        handles = [
            decoder.register_forward_pre_hook(self.begin, with_kwargs=True),
            decoder.register_forward_hook(self.end, always_call=True),
        ]
        parts = [
            [part for part in layer.children() if _takes_keywords(part)]
            for layer in layers
            if _takes_keywords(layer)
        ]
        if len(parts) == len(layers) and all(parts):
            self.layers = len(layers)
            handles.extend(
                part.register_forward_pre_hook(self.arrive, with_kwargs=True)
                for part in chain.from_iterable(parts)
            )
        return handles

    def begin(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before the decoder runs: open a pass."""
        self.current = open_pass(_by_name(decoder, args, kwargs))
        self.arrived = 0
        if self.layers:
            kwargs = {**kwargs, _KEYWORD: self.current}
        return args, kwargs

    def arrive(
        self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before a part of a layer runs: take the pass out of its arguments."""
        if _KEYWORD in kwargs:
            kwargs = dict(kwargs)
            self.current = kwargs.pop(_KEYWORD)
            self.arrived += 1
        return args, kwargs

    def end(self, decoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After the decoder ran, well or not: close the pass.

        Where the keyword did not reach every layer, the pass stays, for the second run of
        checkpointed layers.
        """
        if self.layers and self.arrived >= self.layers:
            self.current = None


def open_pass(given: Mapping[str, Any]) -> Pass:
    """The pass of a decoder's arguments by name.

    Raises:
        AttachError: neither ids nor embeddings, or an attention mask whose padding cannot be read.
    """
    ids, embeddings = given.get("input_ids"), given.get("inputs_embeds")
    source = ids if ids is not None else embeddings
    if source is None:
        raise AttachError(
            "the model was called with neither input_ids nor inputs_embeds by those names: the "
            "routers cannot tell batch from length"
        )
    batch, length = int(source.shape[0]), int(source.shape[1])
    real = _real_tokens(given.get("attention_mask"), given.get("past_key_values"), length)
    return Pass(
        batch=batch,
        length=length,
        place=None if real is None else _places(real),
        token_ids=None if ids is None else ids.reshape(-1),
    )


def _real_tokens(mask: Any, cache: Any, length: int) -> Tensor | None:
    """`[B, L]` booleans, False at padding; None where no mask says anything."""
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise AttachError(
            f"attention_mask is {type(mask).__name__} of shape "
            f"{tuple(getattr(mask, 'shape', ()))}, expected [B, L] or [B, 1, L, L']: the routers "
            "read from it which tokens are padding"
        )
    if mask.ndim == 2:
        if mask.shape[1] < length:
            raise AttachError(
                f"attention_mask has shape {tuple(mask.shape)} for {length} tokens, expected at "
                "least one column for each"
            )
        return mask[:, -length:].bool()
    if length == 1:  # a token that is being generated is none
        return None
    # A mask of queries by keys: a token is padding where it may not attend to itself.
    before = 0 if cache is None else int(cache.get_seq_length())
    if before + length > mask.shape[-1]:
        return None
    rows = mask[:, 0, -length:, before : before + length].diagonal(dim1=-2, dim2=-1)
    return rows if rows.dtype == torch.bool else rows > -1.0


# Whether anything is padding decides the shapes, which a compiled graph cannot.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _places(real: Tensor) -> Tensor | None:
    if bool(real.all()):
        return None
    return real.reshape(-1).nonzero(as_tuple=True)[0]


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if not args:
        return dict(kwargs)
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _takes_keywords(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
