"""A small language model around a system's layers, for the suite of the expert scale.

Shape letters: B sequences, L positions, S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import Context, RoutedModule, Routing, after_step, routed_layers
from wye.moe.build import Shape
from wye.moe.losses import aux_loss
from wye.moe.models.language_model import LanguageModel
from wye.moe.registry import build_layers

Builder = Callable[[Shape], list[nn.Module]]

SHAPE = Shape(n_layers=2, width=16, hidden=8, n_experts=4, k=2)
VOCABULARY, LENGTH, BATCH = 29, 12, 3


def as_builder(system: str | Builder, options: Mapping[str, Any] | None) -> Builder:
    if not isinstance(system, str):
        return system

    def build(shape: Shape) -> list[nn.Module]:
        return build_layers(system, shape, **dict(options or {}))

    return build


def make_model(build: Builder, shape: Shape, *, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(
        build(shape), width=shape.width, length=2 * LENGTH, vocabulary=VOCABULARY, n_heads=2
    )


def trained_model(build: Builder, shape: Shape) -> LanguageModel:
    """A model after two steps, so that biases, prices and running means are not at their start."""
    model = make_model(build, shape).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimiser.zero_grad()
        backward(training_loss(model, make_ids(seed=20 + step)))
        optimiser.step()
        after_step(model)
    model.zero_grad(set_to_none=True)
    return model


def make_ids(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=generator)


def run(model: LanguageModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    batch = ids.shape[0]
    labels = torch.zeros(batch, dtype=torch.int64)
    ratio = torch.full((batch,), 0.5)
    out: Tensor = model(ids, mask=mask, labels=labels, mask_ratio=ratio)
    return out


def training_loss(model: LanguageModel, ids: Tensor) -> Tensor:
    logits = run(model, ids)[:, :-1]
    task = F.cross_entropy(logits.reshape(-1, VOCABULARY).float(), ids[:, 1:].reshape(-1))
    return task + loss_by_hand(model)


def backward(loss: Tensor) -> None:
    """The gradients of a scalar."""
    loss.backward()  # type: ignore[no-untyped-call]


def loss_by_hand(model: nn.Module) -> Tensor:
    """Losses that the layers do not carry themselves."""
    by_hand = [x for x in routed_layers(model).values() if not x.carries_losses and x.training]
    return torch.stack([torch.zeros(()), *(aux_loss(layer) for layer in by_hand)]).sum()


def layer_inputs(model: LanguageModel) -> Iterator[tuple[RoutedModule, Tensor, Context]]:
    """Every routed layer with hidden states and a context of its own; states stay within a pass."""
    layers = list(routed_layers(model).values())
    seen: list[tuple[RoutedModule, Tensor, Context]] = []
    handles = []
    for block in model.blocks:
        feed_forward = block.feed_forward
        if not isinstance(feed_forward, RoutedModule):
            continue

        def keep(x: Tensor, context: Context, mask: Any, of: RoutedModule = feed_forward) -> Any:
            seen.append((of, x.detach(), context))
            return type(of).run_masked(of, x, context, mask)

        feed_forward.run_masked = keep  # type: ignore[method-assign]
        handles.append(feed_forward)
    try:
        with torch.no_grad():
            run(model, make_ids())
    finally:
        for layer in handles:
            del layer.run_masked
    assert len(seen) == len(layers), (
        f"{len(seen)} of {len(layers)} routed layers took part in a forward pass"
    )
    yield from seen


def all_to(expert: int, routing: Routing, x_SD: Tensor, context: Context) -> Plan:
    return only_expert(expert, routing.plan.n_sources, routing.plan.n_targets)


def all_pairs(routing: Routing, x_SD: Tensor, context: Context) -> Plan:
    n, e = routing.plan.n_sources, routing.plan.n_targets
    target = torch.arange(e).repeat(n, 1)
    return Plan.from_rows(target, torch.ones(n, e), e)


def only_expert(expert: int, n_sources: int, n_targets: int) -> Plan:
    source = torch.arange(n_sources)
    return Plan(
        source, torch.full_like(source, expert), torch.ones(n_sources), n_sources, n_targets
    )


def is_reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def refuse_bad_gradients(model: nn.Module, after: str) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(torch.isfinite(parameter.grad).all()), (
                f"the gradient of {name} holds NaN or infinite values after {after}"
            )


def refuse_other_state(one: nn.Module, other: nn.Module, message: str) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b), f"{message}: entries {sorted(set(a) ^ set(b))}"
    for name, value in a.items():
        gap = difference(value, b[name])
        assert gap < 1e-6, f"{message}: {name} by {gap:.3g}"


def difference(one: Tensor, other: Tensor) -> float:
    if one.numel() == 0:
        return 0.0
    gap = (one.detach().double() - other.detach().double()).abs()
    return float(gap.nan_to_num(nan=torch.inf).max())


@contextmanager
def refused(kinds: tuple[type[Exception], ...], doing: str) -> Iterator[None]:
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except kinds as raised:
        if not str(raised):
            raise AssertionError(
                f"{doing} raises {type(raised).__name__} without words"
            ) from raised
    except Exception as raised:
        raise AssertionError(f"{doing} raises {raised!r}, expected {names}") from raised
    else:
        raise AssertionError(f"{doing} is accepted, expected {names}")


def routing_unless_refused(layer: RoutedModule, x: Tensor, context: Context) -> Routing | None:
    """The routing of `x`, None where it is refused with a message."""
    try:
        return layer.run_masked(x, context, None)[1]
    except ValueError as error:
        if not str(error):
            raise AssertionError("bad hidden states are refused without a message") from error
        return None
