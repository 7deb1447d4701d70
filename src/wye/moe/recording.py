"""Record the routing of a model, replay it, or override the choice for one call.

`record` keeps a plan per layer and forward pass in a `PlanTrace`. `replay` runs the recorded pairs
with the gates of the moment, so that gradients flow and the choice stays (routing replay).
`override` swaps the choice of chosen layers while it lasts.

Shape letters: S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wye.core import Plan, PlanTrace
from wye.moe.base import Context, Interceptor, MoEError, RoutedModule, Routing, routed_layers
from wye.moe.losses import recomputing

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

    The i-th forward pass inside takes the i-th plan of every layer; recomputation under activation
    checkpointing takes the plan of the pass that it repeats.

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
    """Write a trace to a `.safetensors` file: 32-bit indices, gates in half precision.

    The file appears whole or not at all.

    Raises:
        MoEError: another suffix.
    """
    import numpy as np
    from safetensors.numpy import save_file

    path = _suffixed(path)
    flat = {}
    for name, value in trace.arrays().items():
        kind = name.rsplit("/", 1)[1]
        dtype = {"weight": np.float16, "size": np.int64}.get(kind, np.int32)
        flat[name] = np.ascontiguousarray(value.astype(dtype))
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(flat, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_trace(path: str | Path) -> PlanTrace:
    """The trace that `save_trace` wrote, in NumPy arrays; `replay` brings them to the device.

    Raises:
        MoEError: no such file, or it holds no trace.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from wye.core import SelectionError

    path = _suffixed(path)
    try:
        flat = load_file(path)
    except Exception as error:
        raise MoEError(f"{path} cannot be read as a trace: {error}") from error
    wide = {n: v.astype(np.float32 if v.dtype == np.float16 else np.int64) for n, v in flat.items()}
    try:
        return PlanTrace.from_arrays(wide)
    except SelectionError as error:
        raise MoEError(f"{path} is no trace: {error}") from error


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
