"""Where the layers of a decoder are, and which of their parts is the feed-forward network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from wye.attachment.errors import AttachError
from wye.moe.base import MoEError
from wye.moe.surgery.decompose import MLPWeights, read_mlp

_NAMES = ("mlp", "feed_forward", "ffn", "feedforward", "ff")


@dataclass(frozen=True)
class Decoder:
    """The stack of layers of a model.

    Attributes:
        module: what runs the layers; its forward pass gets ids and attention mask.
        layers: the layers.
        name: of `layers` in the model.
    """

    module: nn.Module
    layers: nn.ModuleList
    name: str

    def layer_of(self, name: str) -> int | None:
        """Index of the layer that the module called `name` is part of; None outside the stack."""
        start = f"{self.name}."
        if not name.startswith(start):
            return None
        return int(name[len(start) :].split(".", 1)[0])


def find_decoder(model: nn.Module) -> Decoder:
    """The decoder of a Hugging Face model.

    Raises:
        AttachError: a model without config, or without a list of as many layers as it says.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise AttachError(
            f"{type(model).__name__} has no transformers config: attach to a Hugging Face model, "
            "or build layers of your own with wye.moe.build_layers"
        )
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    if not stacks:
        raise AttachError(
            f"{type(model).__name__} has no list of the {n_layers} layers that its config speaks "
            "of: wye.attach works on decoders whose layers stand in one nn.ModuleList"
        )
    name = max(stacks, key=lambda n: sum(p.numel() for p in stacks[n].parameters()))
    return Decoder(model.get_submodule(name.rpartition(".")[0]), stacks[name], name)


def chosen_layers(decoder: Decoder, layers: Sequence[int] | None) -> list[int]:
    """Indices of the layers that were asked for, all when not given, negative ones from the end.

    Raises:
        AttachError: an index out of range, one twice, or none.
    """
    n_layers = len(decoder.layers)
    if layers is None:
        return list(range(n_layers))
    wanted = [int(i) + (n_layers if i < 0 else 0) for i in layers]
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(range(n_layers)):
        raise AttachError(
            f"layers={list(layers)}, expected distinct indices from 0 to {n_layers - 1} (or "
            "negative ones from the end)"
        )
    return sorted(wanted)


def find_mlp(decoder: Decoder, index: int) -> tuple[str, MLPWeights]:
    """Name in the model, and weights, of the feed-forward network of one layer.

    The part under a usual name is taken, else the one part that reads as such a network.

    Raises:
        AttachError: no part, or several, can be read; with what each said.
    """
    layer = decoder.layers[index]
    named = [name for name in _NAMES if name in layer._modules]
    said: dict[str, str] = {}
    found: dict[str, MLPWeights] = {}
    for name in named or [n for n, part in layer.named_children() if any(part.children())]:
        try:
            found[name] = read_mlp(layer.get_submodule(name))
        except MoEError as error:
            said[name] = str(error)
    if len(found) != 1:
        raise AttachError(
            f"layer {index} of the decoder ({type(layer).__name__}) has {len(found)} feed-forward "
            f"networks that can be upcycled, expected one; its parts are "
            f"{[n for n, _ in layer.named_children()]}"
            + "".join(f"; {name}: {message}" for name, message in said.items())
        )
    name, weights = next(iter(found.items()))
    return f"{decoder.name}.{index}.{name}", weights
