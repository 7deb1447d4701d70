"""Remove experts that are hardly used, and what their routers hold for them.

    usage u_e = mean weight of expert e per source, over a validation run
    kept = {e : u_e >= threshold}, never without the most used

A softmax over the logits that are left shares out what the removed experts had. Source: expert
pruning of YOLO-Master (arXiv 2512.23273), for any router whose scores have a row per expert.

`cut` says how one kind of module loses experts; a module of your own joins with `cut.register`.

Shape letters: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import torch
from torch import Tensor, nn

from wye.core import PlanTrace
from wye.moe.base import MoEError, RoutedModule, Router, routed_layers
from wye.moe.experts import BankView, ExpertBank, Experts
from wye.moe.layer import MoELayer
from wye.moe.parts.balance import DualPrices, LossFreeBias
from wye.moe.parts.gate_norm import RMSNormGate
from wye.moe.parts.scores import CosineScores, LinearScores


def usage(trace: PlanTrace) -> dict[str, Tensor]:
    """Mean weight of every expert per source, `[E]` by layer; with gates that sum to 1 so does it.

    Args:
        trace: of `wye.moe.record` over a validation run.

    Raises:
        MoEError: a layer routed nothing.
    """
    found = {}
    for name, plans in trace.items():
        sources = sum(plan.n_sources for plan in plans)
        if not sources:
            raise MoEError(f"layer {name!r} routed nothing: record a run over validation data")
        total = sum(torch.as_tensor(plan.dense()).double().sum(dim=0) for plan in plans)
        found[name] = torch.as_tensor(total) / sources
    return found


def prune(
    model: nn.Module, used: Tensor | Mapping[str, Tensor], threshold: float
) -> dict[str, list[int]]:
    """Remove in place every expert whose usage is below `threshold`.

    The most used expert of a layer always stays. A selection of more experts than are left takes
    all of them. Parameters are replaced: build optimisers afterwards.

    Args:
        model: a routed layer, with `used` its `[E]`; or a model, with `used` by layer as `usage`
            gives it. Layers that are not named stay as they are.
        used: usage of every expert.
        threshold: least usage that keeps an expert.

    Returns:
        By layer, the former indices of the experts that are left; the name of a single layer is "".

    Raises:
        MoEError: a name that is no routed layer, usage of another length or with NaN, or a module
            that holds something for every expert and says nothing about losing one. Nothing has
            changed then in layers that come later.
    """
    layers = routed_layers(model)
    by_name = {"": used} if isinstance(used, Tensor) else dict(used)
    unknown = [name for name in by_name if name not in layers]
    if unknown:
        raise MoEError(f"{unknown} are no routed layers; there are {list(layers)}")
    kept = {name: _kept(layers[name], u, threshold) for name, u in by_name.items()}
    for name, index in kept.items():
        if len(index) < layers[name].router.n_experts:
            cut(layers[name], index.to(next(layers[name].parameters()).device))
    return {name: index.tolist() for name, index in kept.items()}


@singledispatch
def cut(module: nn.Module, kept: Tensor) -> None:
    """Leave `module` with the experts `kept` (int64, ascending); register your own kinds.

    Raises:
        MoEError: nothing is registered for this kind of module.
    """
    raise MoEError(
        f"{type(module).__name__} does not say how it loses experts: register a function with "
        "wye.moe.surgery.prune.cut.register"
    )


@cut.register
def _(module: MoELayer, kept: Tensor) -> None:
    # The experts first: a bank refuses, and nothing has changed by then.
    cut(module.experts, kept)
    cut_router(module.router, kept)


@cut.register
def _(module: Experts, kept: Tensor) -> None:
    cut_rows(module, kept, "up", "down", "up_bias", "down_bias")
    module.n_experts = len(kept)


@cut.register(ExpertBank)
@cut.register(BankView)
def _(module: nn.Module, kept: Tensor) -> None:
    raise MoEError(
        "experts of a bank belong to several layers: give each layer a view of fewer instead"
    )


@cut.register
def _(module: LinearScores, kept: Tensor) -> None:
    cut_rows(module, kept, "weight", "bias")
    module.n_experts = len(kept)


@cut.register
def _(module: CosineScores, kept: Tensor) -> None:
    cut_rows(module, kept, "prototypes")
    module.n_experts = len(kept)


@cut.register
def _(module: RMSNormGate, kept: Tensor) -> None:
    cut_rows(module, kept, "weight")


@cut.register
def _(module: LossFreeBias, kept: Tensor) -> None:
    cut_rows(module, kept, "bias_E")


@cut.register
def _(module: DualPrices, kept: Tensor) -> None:
    cut_rows(module, kept, "price_E", "mean_E")


def cut_router(router: Router, kept: Tensor) -> None:
    """Leave `router` with the experts `kept`, part by part.

    Raises:
        MoEError: a part that holds something for every expert is of no registered kind.
    """
    _cut_parts(router, kept, router.n_experts)
    router.n_experts = len(kept)


def cut_rows(module: nn.Module, kept: Tensor, *names: str) -> None:
    """Replace parameters or buffers `[E, ...]` of `module` by their rows `kept`; None stays."""
    for name in names:
        value = getattr(module, name)
        if value is None:
            continue
        rows = value.detach()[kept].clone()
        if isinstance(value, nn.Parameter):
            rows = nn.Parameter(rows, requires_grad=value.requires_grad)
        setattr(module, name, rows)


def _cut_parts(module: nn.Module, kept: Tensor, n_experts: int) -> None:
    if cut.dispatch(type(module)) is not cut.dispatch(object):
        cut(module, kept)
        return
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    held = [name for name, value in own if value.ndim and value.shape[0] == n_experts]
    if held or (getattr(module, "n_experts", None) == n_experts and not isinstance(module, Router)):
        cut(module, kept)
    k = getattr(module, "k", None)
    if isinstance(k, int) and k > len(kept):
        module.k = len(kept)  # type: ignore[assignment]
        if getattr(module, "fan_out", None) is not None:
            module.fan_out = len(kept)  # type: ignore[assignment]
    for child in module.children():
        _cut_parts(child, kept, n_experts)


def _kept(layer: RoutedModule, used: Tensor, threshold: float) -> Tensor:
    n = layer.router.n_experts
    used = torch.as_tensor(used).detach().cpu().double()
    if tuple(used.shape) != (n,) or bool(used.isnan().any()):
        raise MoEError(
            f"usage {used.tolist()}, expected {n} numbers, one for each expert of the layer"
        )
    stays = used >= threshold
    stays[used.argmax()] = True
    return stays.nonzero(as_tuple=True)[0]
