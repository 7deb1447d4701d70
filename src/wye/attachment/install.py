"""`attach` puts routers into a Hugging Face model, `detach` takes them out again.

wye.attach(model)                                  the model's own rule, in wye's parts
wye.attach(model, "loss_free", rate=1e-3)          another router in a mixture of experts
wye.attach(model, experts=4, k=2, layers=[3, 5])   experts in a dense decoder (upcycling)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from wye.attachment.adapters import MoEAdapter, find_blocks
from wye.attachment.blocks import AttachedLayer, AttachedMoE, UpcycledMLP
from wye.attachment.decoder import Decoder, chosen_layers, find_decoder, find_mlp
from wye.attachment.errors import AttachError
from wye.attachment.experts import (
    NAME,
    activation_of_experts,
    forget_activation,
    register_experts,
)
from wye.attachment.passes import PassHolder
from wye.attachment.routers import (
    RouterFactory,
    routers_by_factory,
    routers_by_name,
    takes_four,
)
from wye.moe.base import MoEError, Router
from wye.moe.surgery.decompose import MLPWeights
from wye.moe.surgery.upcycle import tie_slices, upcycle_mlp

Model = TypeVar("Model", bound=nn.Module)
_RECORD = "_wye_attachment"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was asked of `attach`, as far as it is needed to do the same again.

    Attributes:
        router: name; None where a function made the routers.
        parameters: of the router.
        experts: copies per upcycled layer; None in a mixture of experts.
        k: experts, or copies, per token; None for the model's own number.
        slices: per copy.
        layers: indices of the attached layers.
        carries_losses: as in `RoutedModule`.
    """

    router: str | None
    parameters: dict[str, Any]
    experts: int | None
    k: int | None
    slices: int
    layers: list[int]
    carries_losses: bool


@dataclass(eq=False)
class Attachment:
    """What `attach` changed in a model, kept on the model for `detach`.

    Attributes:
        recipe: what was asked.
        originals: the modules that were replaced, by name.
        handles: of hooks.
        frozen: parameters that the attached model does not use, and that required gradients.
        implementation: of the experts before; None where it was not changed.
        unsaved: per module with `save_pretrained`, the keys it left out before.
    """

    recipe: Recipe
    originals: dict[str, nn.Module] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)
    frozen: list[nn.Parameter] = field(default_factory=list)
    implementation: dict[str, str | None] | None = None
    unsaved: list[tuple[nn.Module, set[str]]] = field(default_factory=list)


def attach(
    model: Model,
    router: str | RouterFactory | None = None,
    *,
    experts: int | None = None,
    k: int | None = None,
    layers: Sequence[int] | None = None,
    slices: int = 1,
    noise: float = 0.0,
    reinitialise: float = 0.0,
    seed: int = 0,
    carries_losses: bool = True,
    **parameters: Any,
) -> Model:
    """Put wye routers into a Hugging Face decoder, in place.

    Without `experts` the model is a mixture of experts whose gates wye's routers replace; with it,
    the dense feed-forward networks become that many experts (sparse upcycling, arXiv 2212.05055).
    The model's own weights stay where they are in `state_dict()` and in what `save_pretrained`
    writes, which leaves out what was added: `wye.save_routers` writes that.

    Padding, read from `attention_mask`, leaves routing. Auxiliary losses travel on the activations
    in training, in addition to those that the model itself computes where its config has
    `output_router_logits=True`; those then read the logits of wye's routers.

    Args:
        model: of transformers.
        router: "own", the model's own rule with a copy of its weights (the default in a mixture of
            experts); the name of a system (`wye.moe.system_names()`; "top_k" is the default for a
            dense model); or a function (layer index, width, n_experts, k) -> `wye.moe.Router`.
        experts: copies of each feed-forward network.
        k: experts per token; copies per token where `slices` cut them. The model's own number, or
            2, when not given.
        layers: indices of decoder layers; all that can be attached when not given.
        slices: cut each copy into so many fine-grained experts.
        noise: of the copies, in units of the standard deviation of each weight.
        reinitialise: share of hidden values of each copy drawn anew.
        seed: of new routers and of both disturbances; PyTorch's global generator is left alone.
        carries_losses: False to add `wye.aux_loss(model)` to the loss by hand.
        **parameters: of the router called by name; the error for an unknown one lists them.

    Returns:
        `model` itself.

    Raises:
        AttachError: an unknown architecture, a layer that cannot be read, a model that is attached
            already, a router that cannot be attached.
        MoEError: an unknown router or parameter, or numbers that do not fit.
    """
    if hasattr(model, _RECORD):
        raise AttachError("this model has routers attached: call wye.detach(model) first")
    decoder = find_decoder(model)
    if experts is None:
        if slices != 1 or noise or reinitialise:
            raise AttachError(
                "slices, noise and reinitialise are for upcycling: pass experts=... with them"
            )
        places = _mixture(model, decoder, layers)
    else:
        places = _dense(decoder, layers, experts, k)
    asked = router if router is not None else ("own" if experts is None else "top_k")
    recipe = Recipe(
        router=asked if isinstance(asked, str) else None,
        parameters=dict(parameters),
        experts=experts,
        k=k,
        slices=slices,
        layers=[place.layer for place in places],
        carries_losses=carries_losses,
    )
    with _seeded(seed) as generator:
        made = _routers(asked, places, slices, k, parameters)
        if experts is not None:
            for one in made:
                tie_slices(one, slices)
        holder = PassHolder()
        attached = Attachment(recipe)
        blocks: dict[str, nn.Module] = {}
        for index, (place, one) in enumerate(zip(places, made, strict=True)):
            one.to(place.device)
            if place.dense is None:
                blocks[place.name] = _attached_moe(place, one, index, holder, carries_losses)
            else:
                grown = upcycle_mlp(
                    place.dense,
                    place.n_experts,
                    slices=slices,
                    noise=noise,
                    reinitialise=reinitialise,
                    generator=generator,
                )
                layer = AttachedLayer(
                    one, index=index, holder=holder, experts=grown, carries_losses=carries_losses
                )
                blocks[place.name] = UpcycledMLP(place.block, layer, place.dense.dropout)
    _install(model, decoder, holder, attached, blocks)
    return model


def detach(model: Model) -> Model:
    """Take wye's routers out of a model: the very modules that were there before return.

    Raises:
        AttachError: nothing is attached.
    """
    attached = attachment_of(model)
    for name, original in attached.originals.items():
        block = model.get_submodule(name)
        # What moved or changed the model since then did so to the block's registers.
        original._parameters.update({n: block._parameters[n] for n in original._parameters})
        original._buffers.update({n: block._buffers[n] for n in original._buffers})
        original.training = block.training
        if isinstance(block, AttachedMoE):
            gate = getattr(block, block.adapter.gate)
            del gate.forward
            forget_activation(getattr(block, block.adapter.experts))
        _replace(model, name, original)
    for parameter in attached.frozen:
        parameter.requires_grad_(True)
    for handle in attached.handles:
        handle.remove()
    if attached.implementation is not None:
        model.set_experts_implementation(attached.implementation)  # type: ignore[operator]
    for module, before in attached.unsaved:
        module._keys_to_ignore_on_save = before  # type: ignore[assignment]
    delattr(model, _RECORD)
    return model


def attachment_of(model: nn.Module) -> Attachment:
    """What is attached to `model`.

    Raises:
        AttachError: nothing is.
    """
    found: Attachment | None = getattr(model, _RECORD, None)
    if found is None:
        raise AttachError(
            f"this {type(model).__name__} has no routers attached: call wye.attach(model, ...) on "
            "it first (on this very module, not on a part or a wrapper of it)"
        )
    return found


@dataclass(frozen=True)
class _Place:
    """One block that gets a router."""

    name: str
    layer: int
    block: Any
    width: int
    n_experts: int
    k: int
    device: torch.device
    adapter: MoEAdapter | None = None
    dense: MLPWeights | None = None


def _mixture(model: nn.Module, decoder: Decoder, layers: Sequence[int] | None) -> list[_Place]:
    found = {
        index: (name, adapter)
        for name, adapter in find_blocks(model).items()
        if (index := decoder.layer_of(name)) is not None
    }
    wanted = sorted(found) if layers is None else chosen_layers(decoder, layers)
    dense = [index for index in wanted if index not in found]
    if dense or not wanted:
        raise AttachError(
            f"layers {dense} of the decoder hold no mixture-of-experts block; {sorted(found)} do"
        )
    places = []
    for index in wanted:
        name, adapter = found[index]
        block: Any = model.get_submodule(name)
        gate = getattr(block, adapter.gate)
        n_experts, width = gate.weight.shape
        places.append(
            _Place(name, index, block, width, n_experts, gate.top_k, gate.weight.device, adapter)
        )
    return places


def _dense(
    decoder: Decoder, layers: Sequence[int] | None, experts: int, k: int | None
) -> list[_Place]:
    places = []
    for index in chosen_layers(decoder, layers):
        name, weights = find_mlp(decoder, index)
        part = decoder.layers[index].get_submodule(name.rpartition(".")[2])
        places.append(
            _Place(
                name,
                index,
                part,
                weights.width,
                experts,
                min(2, experts) if k is None else k,
                weights.up.device,
                dense=weights,
            )
        )
    return places


def _routers(
    asked: str | RouterFactory,
    places: list[_Place],
    slices: int,
    k: int | None,
    parameters: dict[str, Any],
) -> list[Router]:
    if asked == "own":
        return _own(places, k, parameters)
    sizes = {(place.width, place.n_experts, place.k if k is None else k) for place in places}
    if len(sizes) != 1:
        raise AttachError(
            f"the layers have different sizes (width, experts, k) {sorted(sizes)}: attach those of "
            "one size, with layers=..."
        )
    width, n_experts, choices = sizes.pop()
    if not 1 <= choices <= n_experts:
        raise AttachError(f"k={choices} of {n_experts} experts, expected 1 to {n_experts}")
    size = (width, n_experts * slices, choices * slices)
    if isinstance(asked, str):
        return routers_by_name(asked, len(places), *size, parameters)
    if not callable(asked) or not takes_four(asked):
        raise AttachError(
            f"router={asked!r}, expected 'own', the name of a system, or a function (layer index, "
            "width, n_experts, k) -> Router"
        )
    if parameters:
        raise AttachError(
            f"{sorted(parameters)} given beside a router function, which has no use for them: "
            "close over them in the function"
        )
    return routers_by_factory(asked, [place.layer for place in places], *size)


def _own(places: list[_Place], k: int | None, parameters: dict[str, Any]) -> list[Router]:
    if k is not None or parameters:
        raise AttachError(
            f"{sorted([*parameters, *(['k'] if k is not None else [])])} given beside the model's "
            "own rule, which has none: name a router to change it"
        )
    made = []
    for place in places:
        if place.adapter is None:
            raise AttachError(
                "router='own' is a rule of a mixture of experts and this model is dense: name a "
                "router, for instance 'top_k'"
            )
        made.append(place.adapter.own(place.block))
    return made


def _attached_moe(
    place: _Place, router: Router, index: int, holder: PassHolder, carries_losses: bool
) -> AttachedMoE:
    adapter = place.adapter
    assert adapter is not None  # a place without one is dense
    experts = getattr(place.block, adapter.experts)
    activation_of_experts(experts)
    layer = AttachedLayer(
        router, index=index, holder=holder, borrowed=experts, carries_losses=carries_losses
    )
    return AttachedMoE(place.block, adapter, layer)


def _install(
    model: Any,
    decoder: Decoder,
    holder: PassHolder,
    attached: Attachment,
    blocks: dict[str, nn.Module],
) -> None:
    """Put finished blocks in; everything that can be refused was refused before."""
    for name, block in blocks.items():
        original = attached.originals[name] = model.get_submodule(name)
        unused = original
        if isinstance(block, AttachedMoE):
            unused = getattr(original, block.adapter.gate)
        attached.frozen += [p for p in unused.parameters() if p.requires_grad]
        _replace(model, name, block)
    for parameter in attached.frozen:
        parameter.requires_grad_(False)
    attached.handles = holder.install(decoder.module, decoder.layers)
    if any(isinstance(block, AttachedMoE) for block in blocks.values()):
        register_experts()
        attached.implementation = model.get_experts_implementation()
        model.set_experts_implementation(NAME)
    for name, module in model.named_modules():
        if hasattr(module, "_keys_to_ignore_on_save") and hasattr(module, "save_pretrained"):
            before = set(module._keys_to_ignore_on_save or ())
            attached.unsaved.append((module, before))
            module._keys_to_ignore_on_save = before | set(_added_keys(module, name, blocks))
    setattr(model, _RECORD, attached)


def _added_keys(module: nn.Module, name: str, blocks: dict[str, nn.Module]) -> Iterator[str]:
    """Keys in the `state_dict` of `module` (called `name`) of what was added below it."""
    start = f"{name}." if name else ""
    for place, block in blocks.items():
        if place.startswith(start):
            for key in block.get_submodule("wye").state_dict():
                yield f"{place[len(start) :]}.wye.{key}"


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@contextmanager
def _seeded(seed: int) -> Iterator[torch.Generator]:
    """Draws of the CPU's global generator come from `seed` inside, and go on as before after."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise MoEError(f"seed={seed!r}, expected an integer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
