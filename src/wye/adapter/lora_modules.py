"""LoRA modules in a model: which layers carry them, how they come and go, in PEFT's own files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from wye.adapter.base import AdapterError


def backbone_of(model: nn.Module) -> Any:
    """The part of a Hugging Face model that runs its layers, without the output head."""
    return getattr(model, "base_model", model)


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers and its name in `model`.

    Raises:
        AdapterError: none has as many modules as the model's configuration says.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise AdapterError(
        f"{type(model).__name__} has no list of {depth} decoder layers, expected a Hugging Face "
        "causal language model whose configuration has num_hidden_layers"
    )


def lora_layers(model: nn.Module, name: str | None = None) -> dict[str, Any]:
    """Every LoRA layer of `model` by its name; only those that carry the module `name` if given."""
    return {
        place: layer
        for place, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and (name is None or name in layer.lora_A)
    }


def layer_config(
    model: nn.Module, layers: Sequence[int], *, rank: int = 16, alpha: int = 32
) -> LoraConfig:
    """LoRA on every linear layer of some decoder layers.

    Args:
        model: Hugging Face causal language model.
        layers: indices of decoder layers.
        rank: r of A `[r, n]` and B `[m, r]`.
        alpha: the update is scaled by alpha / r.

    Raises:
        AdapterError: no layers, an index out of range, or no linear layer in them.
    """
    place, stack = decoder_layers(model)
    if not layers or not all(0 <= i < len(stack) for i in layers):
        raise AdapterError(
            f"layers={list(layers)}, expected indices of decoder layers from 0 to {len(stack) - 1}"
        )
    leaves = {leaf for i in layers for leaf in _linear_leaves(stack[i])}
    if not leaves:
        raise AdapterError(f"decoder layers {list(layers)} hold no linear layer to adapt")
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(leaves),
        layers_to_transform=list(layers),
        layers_pattern=place.rsplit(".", 1)[-1],
    )


def add_module(
    model: nn.Module,
    peft: PeftModel | None,
    name: str,
    config: LoraConfig,
    *,
    linear: type[nn.Module] | None = None,
) -> PeftModel:
    """Put a fresh LoRA module into `model`, beside those that it has.

    Args:
        model: the base model; its linear layers are wrapped in place.
        peft: what wraps it already; None at the first module.
        name: of the module.
        config: PEFT's; taken over as a copy.
        linear: class of the wrapped layers; PEFT's own when None.

    Raises:
        AdapterError: a name that is taken or that PEFT cannot use, or a module that is more than
            a plain low-rank update.
    """
    refuse_extras(name, config)
    if peft is not None and name in peft.peft_config:
        raise AdapterError(f"a module {name!r} is there already: remove it first, or rename")
    if not name or "." in name or name in ("base", "null", "__base__") or name in "lora_":
        raise AdapterError(
            f"{name!r} is no name for a module: take letters, digits and '-', no reserved word "
            "('base', 'null') and nothing that 'lora_' contains, which PEFT would confuse"
        )
    kept = dataclasses.replace(config)
    if linear is not None:
        kept._register_custom_module({nn.Linear: linear})
    with _without_gradients_of(model):
        if peft is None:
            peft = get_peft_model(model, kept, adapter_name=name)
        else:
            peft.add_adapter(name, kept)
    if linear is not None:
        other = [
            n for n, layer in lora_layers(model, name).items() if not isinstance(layer, linear)
        ]
        if other:
            peft.delete_adapter(name)
            raise AdapterError(
                f"module {name!r} adapts {other[:3]}, which are not nn.Linear and cannot be "
                "routed: leave them out of target_modules"
            )
    return peft


def read_module(
    model: nn.Module,
    peft: PeftModel | None,
    name: str,
    folder: str | Path,
    *,
    linear: type[nn.Module] | None = None,
) -> PeftModel:
    """Put a module that PEFT (or `write_module`) wrote into `model`, under the name `name`.

    Raises:
        AdapterError: no such files, no LoRA, or tensors that the model has no place for.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except Exception as error:
        raise AdapterError(
            f"{folder} cannot be read as a LoRA adapter: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, LoraConfig):
        raise AdapterError(f"{folder} holds {type(config).__name__}, expected a LoRA adapter")
    peft = add_module(model, peft, name, config, linear=linear)
    try:
        found: Any = set_peft_model_state_dict(peft, weights, adapter_name=name)
        strange = list(found.unexpected_keys)
    except RuntimeError as error:
        peft.delete_adapter(name)
        raise AdapterError(f"{folder} does not fit this model: {error}") from error
    if strange:
        peft.delete_adapter(name)
        raise AdapterError(
            f"{folder} holds tensors that this model has no place for: {strange[:3]}; it was "
            "trained on another model"
        )
    return peft


def write_module(peft: PeftModel, name: str, directory: str | Path) -> Path:
    """Write one module as PEFT does, into the folder `directory/name`, which is returned."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Its config says which base model it was trained on; a model built in memory has no name.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        peft.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    return folder if name == "default" else folder / name


def refuse_extras(name: str, config: LoraConfig) -> None:
    """Raise AdapterError unless a module is plain low-rank updates, which alone can be routed."""
    extras = [
        what
        for what, there in (
            ("modules_to_save", config.modules_to_save),
            ("trained biases", config.bias != "none"),
            ("DoRA", config.use_dora),
            ("lora_bias", config.lora_bias),
            ("target_parameters", config.target_parameters),
            ("trainable_token_indices", config.trainable_token_indices),
            ("layer_replication", config.layer_replication),
        )
        if there
    ]
    if extras:
        raise AdapterError(
            f"module {name!r} uses {', '.join(extras)}, which would act on sources that are not "
            "routed to it: expected plain low-rank updates"
        )


def module_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A and B of the module `name` in every layer that has it, by their names in `model`."""
    found: dict[str, Tensor] = {}
    for place, layer in lora_layers(model, name).items():
        found[f"{place}.lora_A.{name}"] = layer.lora_A[name].weight
        found[f"{place}.lora_B.{name}"] = layer.lora_B[name].weight
    return found


def _linear_leaves(layer: nn.Module) -> set[str]:
    """Last parts of the names of linear layers, wrapped by PEFT or not."""
    wrapped = [name for name, module in layer.named_modules() if isinstance(module, LoraLayer)]
    return {
        name.rsplit(".", 1)[-1]
        for name, module in layer.named_modules()
        if name in wrapped
        or (
            isinstance(module, nn.Linear)
            and not any(name.startswith(f"{outer}.") for outer in wrapped)
        )
    }


@contextmanager
def only_training(model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Only `tensors` require gradients inside; then all is as it was before."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    chosen = {id(t) for t in tensors}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
            parameter.grad = None


@contextmanager
def _without_gradients_of(model: nn.Module) -> Iterator[None]:
    """PEFT freezes the base and switches gradients by the active module; training asks anew."""
    yield
    with torch.no_grad():
        model.requires_grad_(False)
