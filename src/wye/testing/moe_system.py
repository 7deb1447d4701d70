"""What every system of the expert scale must do, third parties' included.

`check_moe_system(name)` builds the system's layers into a small language model, runs all of it and
raises an AssertionError that says what was broken.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wye.moe.base import (
    Contracts,
    RoutedModule,
    Routing,
    after_step,
    routed_layers,
)
from wye.moe.build import Shape
from wye.moe.layer import MoELayer
from wye.moe.recording import override, record, replay
from wye.testing.in_model import check_batch_invariant, check_causal, check_padding
from wye.testing.moe_model import (
    BATCH,
    LENGTH,
    SHAPE,
    VOCABULARY,
    Builder,
    all_pairs,
    all_to,
    as_builder,
    backward,
    difference,
    is_reached,
    layer_inputs,
    loss_by_hand,
    make_ids,
    make_model,
    only_expert,
    refuse_bad_gradients,
    refuse_other_state,
    refused,
    routing_unless_refused,
    run,
    trained_model,
    training_loss,
)
from wye.testing.plans import check_plan


def check_moe_system(
    system: str | Builder, *, shape: Shape = SHAPE, options: Mapping[str, Any] | None = None
) -> None:
    """Hold a system to the contract of `wye.moe.base`.

    Args:
        system: a name of `wye.moe.system_names()`, or a function from a `Shape` to one feed-forward
            module per layer.
        shape: sizes to build it at; the width a multiple of 4.
        options: of a system that is named.

    Raises:
        AssertionError: the contract is broken; the message says where.

    Example:
        >>> check_moe_system("top_k")
    """
    build = as_builder(system, options)
    for check in MOE_SYSTEM_CHECKS:
        check(build, shape)


def check_layers(build: Builder, shape: Shape) -> None:
    """One module per layer, of the sizes that were asked for, that are routed or say what holds.

    A layer that makes no plan (soft mixtures) has `contracts` itself.
    """
    layers = build(shape)
    assert len(layers) == shape.n_layers, (
        f"build gave {len(layers)} modules, expected one for each of {shape.n_layers} layers"
    )
    routed = [layer for layer in layers if isinstance(layer, RoutedModule)]
    assert routed or all(hasattr(layer, "contracts") for layer in layers), (
        "no layer is a RoutedModule, so nothing can be recorded or inspected; layers that make no "
        "plan state their contracts as an attribute"
    )
    for layer in routed:
        assert layer.router.width == shape.width, (
            f"a router reads width {layer.router.width}, expected {shape.width}"
        )
        assert isinstance(layer.router.contracts, Contracts), "router.contracts is no Contracts"


def check_plans(build: Builder, shape: Shape) -> None:
    """Plans are valid, name every token, and logits and affinities are float32 `[S, E]`."""
    model = trained_model(build, shape)
    for training in (False, True):
        model.train(training)
        with torch.random.fork_rng():
            run(model, make_ids())
        for name, layer in routed_layers(model).items():
            routing = layer.last
            where = f"layer {name} in {'training' if training else 'evaluation'}"
            check_plan(routing.plan, coverage=0.0)
            size = (BATCH * LENGTH, layer.router.n_experts)
            assert (routing.plan.n_sources, routing.plan.n_targets) == size, (
                f"the plan of {where} is for {routing.plan}, expected {size}"
            )
            for kind in ("logits", "probabilities"):
                value = getattr(routing, kind)
                assert tuple(value.shape) == size, (
                    f"{kind} of {where} have shape {tuple(value.shape)}, expected {size}"
                )
                assert value.dtype == torch.float32, (
                    f"{kind} of {where} are {value.dtype}, expected float32"
                )
                assert not bool(value.isnan().any()), f"{kind} of {where} hold NaN"
            for kind, loss in routing.losses.items():
                assert loss.ndim == 0, f"loss {kind} of {where} is no scalar"
                assert bool(torch.isfinite(loss)), f"loss {kind} of {where} is {float(loss)}"
            assert training or not routing.losses, f"{where} has losses {list(routing.losses)}"


def check_determinism(build: Builder, shape: Shape) -> None:
    """One seed gives one model and one training step; evaluation changes nothing."""
    one, other = trained_model(build, shape), trained_model(build, shape)
    refuse_other_state(one, other, "two models built and trained under one seed differ")
    one.eval()
    before = copy.deepcopy(one.state_dict())
    first, second = run(one, make_ids()), run(one, make_ids())
    assert torch.equal(first, second), (
        f"the second evaluation differs from the first by {difference(first, second):.3g}"
    )
    changed = [n for n, v in one.state_dict().items() if not torch.equal(v, before[n])]
    assert not changed, f"evaluation changed {changed}"


def check_save_and_load(build: Builder, shape: Shape) -> None:
    """A state dict brings back the same outputs, counts and biases; a copy is a copy."""
    model = trained_model(build, shape).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = make_model(build, shape, seed=7)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    expected = run(model, make_ids())
    for what, again in (("loading its state dict", fresh.eval()), ("a copy", copy.deepcopy(model))):
        gap = difference(expected, run(again, make_ids()))
        assert gap < 1e-6, f"outputs differ by {gap:.3g} after {what}: something is not saved"
    larger = Shape(
        n_layers=shape.n_layers,
        width=shape.width,
        hidden=shape.hidden + 4,
        n_experts=shape.n_experts,
        k=shape.k,
    )
    with refused((RuntimeError, ValueError), "loading a checkpoint of another shape"):
        make_model(build, larger).load_state_dict(model.state_dict())


def check_sizes(build: Builder, shape: Shape) -> None:
    """No sequences, no tokens, one token, and tokens that are all padding give what they should."""
    model = trained_model(build, shape)
    for training in (False, True):
        model.train(training)
        for batch, length in ((0, LENGTH), (BATCH, 0), (1, 1)):
            ids = torch.ones(batch, length, dtype=torch.int64)
            out = run(model, ids)
            expected = (batch, length, VOCABULARY)
            assert tuple(out.shape) == expected, (
                f"ids of shape {tuple(ids.shape)} give {tuple(out.shape)}, expected {expected}"
            )
            assert bool(torch.isfinite(out).all()), f"{tuple(ids.shape)} ids give NaN or infinity"
            backward(out.sum() + loss_by_hand(model))
        mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        out = run(model, make_ids(), mask)
        backward(out[mask].sum() + loss_by_hand(model))
        for layer, x, context in layer_inputs(model):
            none = None if context.state is None else context.state[:0]
            y, _ = layer.run_masked(x, replace(context, state=none), mask)
            assert not bool(y.any()), "tokens that are all padding have an output that is not zero"
        refuse_bad_gradients(model, "tokens that are all padding or none")
        after_step(model)


def check_bad_input(build: Builder, shape: Shape) -> None:
    """Another width and hidden states that are NaN are refused, in words."""
    model = trained_model(build, shape).eval()
    for layer, x, context in layer_inputs(model):
        with refused((ValueError,), "hidden states of another width"):
            layer.run_masked(x[..., :-1], context, None)
        bad = x.clone()
        bad[1, 2, 0] = torch.nan
        # A router that does not read hidden states, and so has logits of zero, may let them pass.
        routing = routing_unless_refused(layer, bad, context)
        assert routing is None or not bool(routing.logits.isnan().any() or routing.logits.any()), (
            "hidden states that are NaN are routed silently: raise an error that says so"
        )
        with refused((ValueError,), "a mask of another shape"):
            layer.run_masked(x, context, torch.ones(BATCH, LENGTH + 1, dtype=torch.bool))


def check_gradients(build: Builder, shape: Shape) -> None:
    """In training the loss reaches experts and router of every layer, and every gradient is finite.

    Routers without parameters are excused; an expert without tokens has a gradient of zero.
    """
    model = make_model(build, shape).train()
    backward(training_loss(model, make_ids()))
    refuse_bad_gradients(model, "a training batch")
    for name, layer in routed_layers(model).items():
        own = [p for p in layer.router.parameters() if p.requires_grad]
        assert not own or any(is_reached(p) for p in own), (
            f"no gradient reaches the router of {name}"
        )
        inside = {id(p) for p in layer.router.parameters()}
        others = [p for p in layer.parameters() if p.requires_grad and id(p) not in inside]
        assert not others or any(is_reached(p) for p in others), (
            f"no gradient reaches the experts of {name}"
        )


def check_starved_expert(build: Builder, shape: Shape) -> None:
    """With every token sent to one expert, all is finite and every expert has a gradient."""
    model = trained_model(build, shape).train()
    if not routed_layers(model):
        return
    model.zero_grad(set_to_none=True)
    with override(model, partial(all_to, 0)):
        loss = training_loss(model, make_ids())
        backward(loss)
    assert bool(torch.isfinite(loss)), "sending every token to one expert gives no finite loss"
    refuse_bad_gradients(model, "experts without tokens")
    for name, layer in routed_layers(model).items():
        if type(layer) is MoELayer:
            lost = [n for n, p in layer.experts.named_parameters() if p.grad is None]
            assert not lost, (
                f"{lost} of the experts of {name} have no gradient when some get no token: give "
                "them zeros, which distributed reducers wait for"
            )


def check_all_experts(build: Builder, shape: Shape) -> None:
    """With every expert chosen, a layer is the dense mixture of its experts under its gates."""
    model = trained_model(build, shape).eval()
    for layer, x, context in layer_inputs(model):
        if type(layer) is not MoELayer:
            continue
        with override(layer, all_pairs):
            y, routing = layer.run_masked(x, context, None)
        flat = x.reshape(-1, x.shape[-1])
        dense = torch.zeros_like(flat)
        gates = routing.plan.dense()
        for expert in range(layer.router.n_experts):
            alone = only_expert(expert, flat.shape[0], layer.router.n_experts)
            dense = dense + gates[:, expert, None] * layer.experts(flat, alone)
        nothing = routing.plan.where(torch.zeros(len(routing.plan), dtype=torch.bool))
        rest = layer.execute(flat, Routing(nothing, routing.logits, routing.probabilities), context)
        gap = difference(y.reshape(-1, x.shape[-1]), dense + rest)
        assert gap < 1e-4, f"with all experts chosen the output is {gap:.3g} off the dense mixture"


def check_contracts(build: Builder, shape: Shape) -> None:
    """What the routers declare holds; what they declare not to hold is not asserted."""
    model = trained_model(build, shape).eval()
    stated = (getattr(module, "contracts", None) for module in model.modules())
    declared = [contracts for contracts in stated if isinstance(contracts, Contracts)]

    def logits(ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return run(model, ids, mask)

    ids = make_ids(seed=3)
    if all(contract.causal for contract in declared):
        check_causal(logits, ids, tolerance=1e-4)
    if all(contract.batch_invariant for contract in declared):
        check_batch_invariant(logits, ids, tolerance=1e-4)
    if all(contract.padding and contract.batch_invariant for contract in declared):
        check_padding(logits, ids, amounts=(3,), tolerance=1e-4)


def check_precision(build: Builder, shape: Shape) -> None:
    """In bfloat16 and under autocast, all is finite, and logits and gates are float32."""
    for cast in (False, True):
        model = trained_model(build, shape).train()
        model.zero_grad(set_to_none=True)
        what = "under autocast" if cast else "in bfloat16"
        if not cast:
            model.to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            loss = training_loss(model, make_ids())
        backward(loss)
        assert bool(torch.isfinite(loss)), f"the loss {what} is {float(loss)}"
        refuse_bad_gradients(model, f"a batch {what}")
        for name, layer in routed_layers(model).items():
            routing = layer.last
            dtypes = {routing.logits.dtype, routing.probabilities.dtype, routing.plan.weight.dtype}
            assert dtypes == {torch.float32}, (
                f"logits, affinities and gates of {name} {what} are {dtypes}, expected float32"
            )
        after_step(model)
    model = trained_model(build, shape).eval()
    inputs = list(layer_inputs(model))
    for dtype in (torch.bfloat16, torch.float32):
        # The whole model: layers may share weights that only one of them registers.
        model.to(dtype)
        for layer, x, context in inputs:
            y, _ = layer.run_masked(x.to(dtype), context, None)
            assert y.dtype == dtype, f"hidden states in {dtype} give an output in {y.dtype}"


def check_checkpointing(build: Builder, shape: Shape) -> None:
    """Activation checkpointing gives the same gradients and leaves the same state behind."""
    plain, saving = trained_model(build, shape), trained_model(build, shape)
    saving.checkpointing = True
    for model in (plain, saving):
        model.train().zero_grad(set_to_none=True)
        torch.manual_seed(11)
        backward(training_loss(model, make_ids()))
    for (name, one), (_, other) in zip(
        plain.named_parameters(), saving.named_parameters(), strict=True
    ):
        if one.grad is None:
            assert other.grad is None, f"{name} has a gradient only under checkpointing"
            continue
        assert other.grad is not None, f"{name} has no gradient under checkpointing"
        gap = difference(one.grad, other.grad)
        assert gap < 1e-5, f"the gradient of {name} differs by {gap:.3g} under checkpointing"
        one.grad = other.grad = None
    for model in (plain, saving):
        after_step(model)
    refuse_other_state(plain, saving, "counts and biases differ under checkpointing")


def check_after_step(build: Builder, shape: Shape) -> None:
    """`after_step` updates buffers of routers, and no parameter."""
    model = trained_model(build, shape).train()
    training_loss(model, make_ids())
    before = copy.deepcopy(model.state_dict())
    after_step(model)
    parameters = dict(model.named_parameters())
    routers = tuple(f"{name}.router." for name in routed_layers(model))
    for name, value in model.state_dict().items():
        if torch.equal(value, before[name]):
            continue
        assert name.startswith(routers), f"after_step changed {name}, which belongs to no router"
        assert name not in parameters, f"after_step changed the parameter {name}"


def check_record_and_replay(build: Builder, shape: Shape) -> None:
    """A recorded evaluation replays to the same outputs, with and without padding."""
    model = trained_model(build, shape).eval()
    if not routed_layers(model):
        return
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    mask[0, 7:] = False
    with record(model) as trace:
        first = [run(model, make_ids(), m) for m in (None, mask)]
    with replay(model, trace):
        second = [run(model, make_ids(), m) for m in (None, mask)]
    for what, one, other, m in zip(("", " with padding"), first, second, (None, mask), strict=True):
        kept = torch.ones_like(mask) if m is None else m
        gap = difference(one[kept], other[kept])
        assert gap < 1e-4, f"replaying a recorded pass{what} changes the outputs by {gap:.3g}"


MOE_SYSTEM_CHECKS: tuple[Callable[[Builder, Shape], None], ...] = (
    check_layers,
    check_plans,
    check_determinism,
    check_save_and_load,
    check_sizes,
    check_bad_input,
    check_gradients,
    check_starved_expert,
    check_all_experts,
    check_contracts,
    check_precision,
    check_checkpointing,
    check_after_step,
    check_record_and_replay,
)
