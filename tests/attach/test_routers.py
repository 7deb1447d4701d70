"""Routers trained afresh in a mixture: by name, by function, with state over depth."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wye
from wye.attachment import ADAPTERS, AttachError, MoEAdapter, register
from wye.moe import (
    Context,
    MoEError,
    Router,
    Routing,
    after_step,
    aux_loss,
    get_router,
    override,
    record,
    replay,
    routed_layers,
)

pytestmark = pytest.mark.torch

Build = Callable[..., Any]


@pytest.mark.parametrize(
    "name",
    ["top_k", "switch", "loss_free", "deepseek_v3", "bip-balancing", "dynamic-moe"],
)
def test_a_router_by_name_learns_in_the_model(
    build: Build, ids: Tensor, labels: Tensor, name: str
) -> None:
    model = wye.attach(build("olmoe"), name).train()
    before = model.model.layers[0].mlp.wye.router.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        after_step(model)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = [
        key
        for key, value in model.model.layers[0].mlp.wye.router.state_dict().items()
        if not torch.equal(value, before[key])
    ]
    assert changed


def test_parameters_reach_the_router_and_typos_are_refused(build: Build) -> None:
    model = wye.attach(build("mixtral"), "loss_free", rate=0.25)
    assert "rate=0.25" in repr(model.model.layers[0].mlp.wye)
    wye.detach(model)
    with pytest.raises(MoEError, match="rat"):
        wye.attach(model, "loss_free", rat=0.25)
    assert not routed_layers(model)


def test_k_is_the_models_own_unless_given(build: Build, ids: Tensor) -> None:
    model = build("olmoe")
    for k, expected in ((None, 2), (3, 3)):
        wye.attach(model, "top_k", k=k)
        model(ids)
        layer = model.model.layers[0].mlp.wye
        assert layer.last.plan.fan_out().tolist() == [expected] * 30
        wye.detach(model)


def test_seeds_decide_new_routers_and_leave_the_global_generator_alone(build: Build) -> None:
    def weight(seed: int) -> Tensor:
        model = wye.attach(build("olmoe"), "top_k", seed=seed)
        found: Tensor = model.model.layers[1].mlp.wye.router.scores.weight
        return found

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    model = build("olmoe")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wye.attach(model, "top_k")
    assert torch.equal(torch.rand(3), expected)


def test_a_function_makes_routers_layer_by_layer(build: Build, ids: Tensor) -> None:
    seen = []

    def factory(layer: int, width: int, n_experts: int, k: int) -> Router:
        seen.append((layer, width, n_experts, k))
        return get_router("top_k", width, n_experts, k=layer)

    model = wye.attach(build("deepseek_v3"), factory)
    model(ids)
    assert seen == [(1, 32, 8, 3), (2, 32, 8, 3)]
    assert [len(layer.last.plan) for layer in routed_layers(model).values()] == [30, 60]


def test_only_the_layers_asked_for_are_attached(build: Build, ids: Tensor) -> None:
    stock = build("olmoe")
    model = wye.attach(copy.deepcopy(stock), layers=[0, -1])
    assert list(routed_layers(model)) == ["model.layers.0.mlp.wye", "model.layers.2.mlp.wye"]
    torch.testing.assert_close(model(ids).logits, stock(ids).logits, atol=1e-5, rtol=1e-5)


def test_losses_travel_on_the_activations(build: Build, ids: Tensor) -> None:
    def router_gradient(carries: bool) -> Tensor:
        model = wye.attach(build("olmoe"), "switch", carries_losses=carries).train()
        loss = model(ids, labels=ids).loss
        assert float(aux_loss(model)) > 0
        (loss if carries else loss + aux_loss(model)).backward()
        found: Tensor = model.model.layers[1].mlp.wye.router.scores.weight.grad
        return found

    torch.testing.assert_close(router_gradient(True), router_gradient(False), atol=1e-7, rtol=1e-4)


def test_padding_counts_in_no_loss(build: Build, ids: Tensor, mask: Tensor) -> None:
    model = wye.attach(build("olmoe"), "balance_loss").train()
    model(ids, attention_mask=mask)
    with_garbage = ids.masked_fill(mask == 0, 63)
    first = float(aux_loss(model))
    model(with_garbage, attention_mask=mask)
    assert float(aux_loss(model)) == pytest.approx(first, abs=1e-6)


def test_routing_is_recorded_replayed_and_overridden(build: Build, ids: Tensor) -> None:
    model = wye.attach(build("olmoe"))
    with record(model) as trace:
        expected = model(ids).logits
    assert len(trace) == 3
    with torch.no_grad():
        model.model.layers[2].mlp.wye.router.scores.weight.neg_()
    assert not torch.allclose(model(ids).logits, expected, atol=1e-3)
    with replay(model, trace):
        model(ids)
    plan = trace["model.layers.2.mlp.wye"][0]
    assert torch.equal(model.model.layers[2].mlp.wye.last.plan.target, plan.target)

    def only_the_first(routing: Routing, x_SD: Tensor, context: Context) -> Any:
        rows = torch.zeros(x_SD.shape[0], 1, dtype=torch.long)
        return type(routing.plan).from_rows(rows, torch.ones(rows.shape), routing.plan.n_targets)

    with override(model, only_the_first):
        model(ids)
    assert model.model.layers[0].mlp.wye.last.plan.load().tolist() == [30, 0, 0, 0, 0, 0]


class Remembering(Router):
    """Top-1 of zero logits that adds 1 to its state at every layer."""

    def __init__(self, width: int, n_experts: int) -> None:
        super().__init__(width, n_experts)
        self.inner = get_router("top_k", width, n_experts, k=1)
        self.bump = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor | None] = []

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        routing = self.inner(x_SD, context)
        self.seen.append(context.state)
        below = torch.zeros(x_SD.shape[0]) if context.state is None else context.state
        return Routing(routing.plan, routing.logits, routing.probabilities, {}, below + self.bump)

    def weigh(self, plan: Any, routing: Routing) -> Any:
        return self.inner.weigh(plan, routing)


def test_state_travels_over_depth_and_starts_anew_with_every_pass(
    build: Build, ids: Tensor, mask: Tensor
) -> None:
    model = wye.attach(build("olmoe"), lambda layer, d, e, k: Remembering(d, e))
    for _ in range(2):
        model(ids, attention_mask=mask)
    for index, layer in enumerate(routed_layers(model).values()):
        for state in layer.router.seen:
            if index == 0:
                assert state is None
            else:
                assert state.tolist() == [float(index)] * int(mask.sum())


def test_the_recurrent_router_shares_one_cell_and_its_gradient_reaches_the_layers_below(
    build: Build, ids: Tensor
) -> None:
    model = wye.attach(build("olmoe"), "layerwise-recurrent-router", cell_width=8).train()
    layers = list(routed_layers(model).values())

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in layers[0].router.parameters() if p.grad is not None]

    expected = gradients()
    assert any(float(g.abs().max()) > 0 for g in expected)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for gradient, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)


def test_reentrant_checkpointing_of_a_state_over_depth_is_refused(
    build: Build, ids: Tensor
) -> None:
    model = wye.attach(build("olmoe"), "layerwise-recurrent-router", cell_width=8).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(AttachError, match="use_reentrant"):
        model(ids, labels=ids)


def test_a_router_of_variable_fan_out_needs_wyes_experts(build: Build, ids: Tensor) -> None:
    model = wye.attach(build("olmoe"), "dynamic-moe")
    with torch.no_grad():  # a new router is nearly uniform, and gives every token as many experts
        model.model.layers[0].mlp.wye.router.scores.weight.mul_(20)
    assert model(ids).logits.shape == (3, 10, 64)
    fan_out = {int(n) for n in model.model.layers[0].mlp.wye.last.plan.fan_out()}
    assert len(fan_out) > 1
    model.set_experts_implementation("eager")
    with pytest.raises(AttachError, match="set_experts_implementation"):
        model(ids)


def test_nan_hidden_states_are_an_error(build: Build, ids: Tensor) -> None:
    model = wye.attach(build("olmoe"))
    embedded = model.get_input_embeddings()(ids).clone()
    embedded[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        model(inputs_embeds=embedded)


def test_another_architecture_is_one_entry_away(build: Build, ids: Tensor) -> None:
    model = build("mixtral")
    expected = model(ids).logits
    block = type(model.model.layers[0].mlp)
    other = type("NobodysMoE", (block,), {})
    for layer in model.model.layers:
        layer.mlp.__class__ = other
    with pytest.raises(AttachError, match=r"mixtral.*MixtralSparseMoeBlock.*MoEAdapter"):
        wye.attach(model)
    own = ADAPTERS["MixtralSparseMoeBlock"].own
    register(MoEAdapter(block="NobodysMoE", own=own))
    try:
        made = wye.attach(model)(ids).logits
    finally:
        del ADAPTERS["NobodysMoE"]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_a_second_attachment_and_a_detachment_of_nothing_are_refused(build: Build) -> None:
    model = build("olmoe")
    with pytest.raises(AttachError, match="attach"):
        wye.detach(model)
    wye.attach(model)
    with pytest.raises(AttachError, match="detach"):
        wye.attach(model, "top_k")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("no_such_router", {}, "no_such_router"),
        ("soft_moe", {}, "more than a router"),
        ("rexmoe", {}, "more than a router"),
        ("own", {"k": 2}, "own rule"),
        ("own", {"rate": 1.0}, "own rule"),
        ("top_k", {"k": 7}, "k=7"),
        ("top_k", {"k": 0}, "k=0"),
        ("top_k", {"layers": [3]}, "layers"),
        ("top_k", {"layers": []}, "layers"),
        ("top_k", {"layers": [0, 0]}, "layers"),
        ("top_k", {"noise": 0.1}, "experts="),
        (3, {}, "router=3"),
        (lambda: None, {}, "function"),
        (lambda layer, d, e, k: None, {}, "NoneType"),
        (lambda layer, d, e, k: get_router("top_k", d, e + 1), {}, "7"),
        (lambda layer, d, e, k: get_router("top_k", d, e), {"rate": 1.0}, "close over"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_leaves_the_model_alone(
    build: Build, given: Any, options: dict[str, Any], message: str
) -> None:
    model = build("olmoe")
    layout = str(model)
    with pytest.raises(MoEError, match=message):
        wye.attach(model, given, **options)
    assert str(model) == layout


def test_a_module_of_another_library_is_refused() -> None:
    with pytest.raises(AttachError, match="config"):
        wye.attach(nn.Linear(2, 2))
