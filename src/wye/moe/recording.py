"""Record the routing of a model, replay it, or override the choice for one call.

`record` keeps a plan per layer and forward pass in a `PlanTrace`. `replay` runs the recorded pairs
with the gates of the moment, so that gradients flow and the choice stays (routing replay).
`override` swaps the choice of chosen layers while it lasts.

Shape letters: S tokens, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wye.core import Plan, PlanError, PlanTrace, SelectionError
from wye.moe.base import Context, Interceptor, MoEError, RoutedModule, Routing, routed_layers
from wye.moe.losses import recomputing

_PLACES = "wye.moe trace: layers in order"

Choice = Callable[[Routing, Tensor, Context], Plan]
"""(routing, x_SD, context) -> the pairs to use instead; the router weighs them by its own rule."""


@contextmanager
def record(model: nn.Module) -> Iterator[PlanTrace]:
    """Record the plan of every routed layer and forward pass run inside, under the layer's name.

    Plans name tokens by their place in the flattened `[B, L]` grid, padding included, whether or
    not padding was taken out for routing.

    Raises:
        MoEError: the model has no routed layer.
    """
    trace = PlanTrace()

    def recorder(name: str) -> Interceptor:
        place_of = name.replace("/", "|")

        def keep(layer: RoutedModule, x_SD: Tensor, context: Context, routing: Routing) -> Routing:
            if not recomputing():
                trace.record(place_of, _on_grid(routing.plan, context))
            return routing

        return keep

    with _intercepting({name: recorder(name) for name in _named(model)}, model):
        yield trace


@contextmanager
def replay(model: nn.Module, trace: PlanTrace) -> Iterator[None]:
    """Run the pairs of `trace`, weighted by the gates of the moment.

    The i-th forward pass inside takes the i-th plan of every layer. Recomputation under activation
    checkpointing takes the plan of the last pass: run the backward pass of each forward pass before
    the next, inside the context.

    Raises:
        MoEError: a layer of the model is not in the trace, or the trace ends before the passes do,
            or a pass has another number of tokens.
    """
    steps: dict[str, int] = {}

    def player(name: str) -> Interceptor:
        def play(layer: RoutedModule, x_SD: Tensor, context: Context, routing: Routing) -> Routing:
            if not recomputing():
                steps[name] = steps.get(name, -1) + 1
            step = steps.get(name, 0)
            plans = trace[name]
            if step >= len(plans):
                raise MoEError(
                    f"layer {name!r} runs for the {step + 1}. time and the trace holds "
                    f"{len(plans)} plans: record as many passes as are replayed"
                )
            plan = _off_grid(plans[step], context, routing.plan, name)
            return replace(routing, plan=layer.router.weigh(plan, routing))

        return play

    names = _named(model)
    missing = [name for name in names if name not in trace]
    if missing:
        raise MoEError(f"the trace holds no plans of {missing}; it has {list(trace)}")
    with _intercepting({name: player(name) for name in names}, model):
        yield


@contextmanager
def override(model: nn.Module, choice: Choice | Mapping[str, Choice]) -> Iterator[None]:
    """Let `choice` decide which experts run, in all layers or in those named, while it lasts.

    Args:
        model: any module with routed layers.
        choice: `(routing, x_SD, context) -> Plan`; weights are the router's own for those pairs.

    Raises:
        MoEError: a name that is no routed layer.
    """
    names = _named(model)
    choices = dict(choice) if isinstance(choice, Mapping) else dict.fromkeys(names, choice)
    unknown = [name for name in choices if name not in names]
    if unknown:
        raise MoEError(f"{unknown} are no routed layers; there are {list(names)}")

    def chooser(choose: Choice) -> Interceptor:
        def decide(layer: RoutedModule, x: Tensor, context: Context, routing: Routing) -> Routing:
            plan = choose(routing, x, context)
            return replace(routing, plan=layer.router.weigh(plan, routing))

        return decide

    with _intercepting({name: chooser(c) for name, c in choices.items()}, model):
        yield


def save_trace(trace: PlanTrace, path: str | Path) -> Path:
    """Write a trace to a `.safetensors` file: narrow indices, gates in half precision.

    A pair takes 4 to 7 bytes: the least integers that hold S and E, and a gate to 3 digits. The
    file appears whole or not at all.

    Raises:
        MoEError: another suffix.
    """
    from safetensors.numpy import save_file

    path = _suffixed(path)
    flat = {name: _narrow(name, value) for name, value in trace.arrays().items()}
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(flat, temporary, metadata={_PLACES: json.dumps(list(trace))})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_trace(path: str | Path) -> PlanTrace:
    """The trace that `save_trace` wrote, in NumPy arrays; `replay` brings them to the device.

    Raises:
        MoEError: no such file, or it holds no trace.
    """
    from safetensors import SafetensorError, safe_open

    path = _suffixed(path)
    try:
        with safe_open(path, framework="numpy") as file:
            places = json.loads((file.metadata() or {}).get(_PLACES, "null"))
            flat = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise MoEError(f"{path} cannot be read as a trace: {error}") from error
    if places is None:
        raise MoEError(
            f"{path} is no trace: it holds {sorted(flat)[:4]}... and no list of layers; traces are "
            "written by wye.moe.save_trace"
        )
    # The file sorts its arrays by name; the model's order of layers is another.
    order = {place: i for i, place in enumerate(places)}
    ordered = sorted(flat, key=lambda name: order.get(name.split("/")[0], len(order)))
    try:
        return PlanTrace.from_arrays({name: flat[name] for name in ordered})
    except (SelectionError, PlanError) as error:
        raise MoEError(f"{path} is no trace: {error}") from error


def _narrow(name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    kind = name.rsplit("/", 1)[1]
    if kind == "size":
        return value
    if kind != "weight":
        return value.astype(np.min_scalar_type(int(value.max(initial=0))))
    fits = float(np.abs(value).max(initial=0.0)) <= float(np.finfo(np.float16).max)
    return value.astype(np.float16 if fits else np.float32)


def _widened(value: NDArray[np.generic]) -> NDArray[np.generic]:
    return value.astype(np.float32 if value.dtype.kind == "f" else np.int64)


def _suffixed(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise MoEError(f"{path} should end in .safetensors")
    return path


def _named(model: nn.Module) -> dict[str, RoutedModule]:
    layers = {name.replace("/", "|"): layer for name, layer in routed_layers(model).items()}
    if not layers:
        raise MoEError(f"{type(model).__name__} has no routed layer: attach routers to it first")
    return layers


@contextmanager
def _intercepting(by_name: Mapping[str, Interceptor], model: nn.Module) -> Iterator[None]:
    layers = _named(model)
    for name, interceptor in by_name.items():
        layers[name.replace("/", "|")]._interceptors.append(interceptor)
    try:
        yield
    finally:
        for name, interceptor in by_name.items():
            layers[name.replace("/", "|")]._interceptors.remove(interceptor)


def _on_grid(plan: Plan, context: Context) -> Plan:
    if context.place is None:
        return plan
    size = context.batch * context.length
    return Plan(context.place[plan.source], plan.target, plan.weight, size, plan.n_targets)


def _off_grid(plan: Plan, context: Context, like: Plan, name: str) -> Plan:
    device = like.source.device
    source, target, weight = (
        torch.as_tensor(a).to(device) for a in (plan.source, plan.target, plan.weight)
    )
    size = context.batch * context.length
    if plan.n_sources != size or plan.n_targets != like.n_targets:
        raise MoEError(
            f"the trace of layer {name!r} holds {plan.n_sources} tokens and {plan.n_targets} "
            f"experts, this pass has {size} and {like.n_targets}: replay the batches that were "
            "recorded"
        )
    if context.place is not None:
        index = torch.full((size,), -1, device=device, dtype=torch.int64)
        index[context.place] = torch.arange(context.place.shape[0], device=device)
        source = index[source.long()]
        kept = source >= 0
        source, target, weight = source[kept], target[kept], weight[kept]
    return Plan(source.long(), target.long(), weight.float(), like.n_sources, like.n_targets)
