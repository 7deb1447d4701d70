"""Experts reused by the layers of a group: what opens when, whose gradients, how many weights."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from wye.moe import (
    Context,
    Experts,
    LanguageModel,
    MoEError,
    MoELayer,
    Shape,
    after_step,
    build_layers,
    get_router,
)
from wye.moe.parts.open_targets import Opening, OpenScores
from wye.moe.parts.scores import LinearScores
from wye.moe.rexmoe import physical_load

pytestmark = pytest.mark.torch

N, D, L = 4, 12, 6


def layers_of(reuse: int = 3, n_layers: int = L, **options: Any) -> list[Any]:
    shape = Shape(n_layers=n_layers, width=D, hidden=8, n_experts=N, k=2)
    return build_layers("rexmoe", shape, reuse=reuse, **options)


def line(n: int) -> Context:
    return Context(batch=1, length=n)


def step_to(layers: list[Any], step: int) -> None:
    for layer in layers:
        layer.router.scores.steps.fill_(step)


@pytest.mark.parametrize("n", [4, 5, 8])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_before_anything_opens_a_layer_is_an_ordinary_one(n: int, place: int) -> None:
    shape = Shape(n_layers=3, width=D, hidden=8, n_experts=n, k=2)
    layer: Any = build_layers("rexmoe", shape, reuse=3, opening=(5, 9))[place].train()
    own = slice(place * n, (place + 1) * n)
    plain = MoELayer(get_router("top_k", D, n, k=2), Experts(n, D, 8)).train()
    bank = layer.experts.bank
    # In multiples of 1/8 every product and sum is exact, whatever the order of a matrix product,
    # which depends on the number of rows.
    with torch.no_grad():
        layer.router.scores.inner.weight.copy_(torch.randint(-8, 9, (3 * n, D)) / 8)
        plain.router.scores.weight.copy_(layer.router.scores.inner.weight[own])
        plain.experts.up.copy_(bank.up[own])
        plain.experts.down.copy_(bank.down[own])
    x = torch.randint(-8, 9, (40, D)) / 8
    y, routing = layer.run(x, line(40))
    expected_y, expected = plain.run(x, line(40))
    assert torch.equal(routing.plan.target - place * n, expected.plan.target)
    assert torch.equal(routing.logits[:, own], expected.logits)
    # A softmax adds its terms in an order that depends on the length of the row: the last bit may
    # differ, and nothing more.
    near = {"rtol": 3e-7, "atol": 0.0}
    torch.testing.assert_close(routing.plan.weight, expected.plan.weight, **near)
    torch.testing.assert_close(routing.probabilities[:, own], expected.probabilities, **near)
    assert int((routing.probabilities > 0).sum()) == 40 * n
    torch.testing.assert_close(y, expected_y, rtol=1e-6, atol=1e-7)


def test_without_reuse_the_layers_are_ordinary_ones() -> None:
    for layer in layers_of(reuse=1, opening=None):
        assert layer.router.n_experts == N
        x = torch.randn(9, D)
        plain = get_router("top_k", D, N, k=2).eval()
        with torch.no_grad():
            plain.scores.weight.copy_(layer.router.scores.inner.weight)
        routing, expected = layer.eval().router(x, line(9)), plain(x, line(9))
        assert torch.equal(routing.plan.target, expected.plan.target)
        assert torch.equal(routing.plan.weight, expected.plan.weight)


@pytest.mark.parametrize("reuse", [2, 3, 6])
def test_reuse_adds_rows_of_routers_and_nothing_else(reuse: int) -> None:
    def size(r: int) -> int:
        model = LanguageModel(layers_of(reuse=r), width=D, length=8, n_heads=2)
        return sum(p.numel() for p in model.parameters())

    assert size(reuse) - size(1) == L * (reuse - 1) * N * D


def test_the_gradient_of_an_expert_is_the_sum_over_the_layers_of_its_group() -> None:
    layers = layers_of(opening=None, n_layers=3)
    bank = layers[0].experts.bank
    copies = [Experts(3 * N, D, 8) for _ in layers]
    for copy in copies:
        copy.load_state_dict(bank.state_dict())
    x, untied = torch.randn(20, D), 0.0
    for layer, copy in zip(layers, copies, strict=True):
        y, routing = layer.run(x, line(20))
        y.square().sum().backward()
        untied = (
            untied + copy(x, routing.plan.with_weight(routing.plan.weight.detach())).square().sum()
        )
    untied.backward()
    for name in ("up", "down"):
        total = sum(getattr(copy, name).grad for copy in copies)
        torch.testing.assert_close(getattr(bank, name).grad, total, atol=1e-5, rtol=1e-4)
        assert (total.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 7), (5, 5), (5, 6), (10, 400)])
@pytest.mark.parametrize("total", [4, 12, 13])
def test_the_number_of_open_candidates_grows_from_own_to_all(
    start: int, end: int, total: int
) -> None:
    opening = Opening(start, end)
    numbers = [int(opening.number(t, own=4, total=total)) for t in range(end + 3)]
    assert all(a <= b for a, b in pairwise(numbers))
    assert numbers[end] == numbers[-1] == total
    if end > 0:
        assert numbers[0] == 4
    if start > 0:
        assert numbers[start - 1] == 4
    middle = start + (end - start) // 2
    if end > start:
        exact = 4 + (total - 4) * (middle - start) / (end - start)
        assert numbers[middle] == int(exact)


def test_closed_candidates_have_probability_zero_and_no_tokens() -> None:
    layers = layers_of(opening=(0, 100))
    for step in (0, 30, 60, 99, 100):
        step_to(layers, step)
        for layer in layers:
            scores = layer.router.scores
            opened = scores.open_at(step)
            assert opened[list(scores.own)].all()
            assert int(opened.sum()) == N + 2 * N * step // 100
            routing = layer.eval().router(torch.randn(50, D), line(50))
            assert not routing.probabilities[:, ~opened].any()
            assert not torch.isin(routing.plan.target, (~opened).nonzero()[:, 0]).any()
            torch.testing.assert_close(routing.probabilities.sum(dim=1), torch.ones(50))


def test_every_layer_opens_in_an_order_of_its_own_that_is_saved() -> None:
    layers = layers_of(opening=(0, 100))
    orders = [tuple(layer.router.scores.rank_E.tolist()) for layer in layers]
    assert len(set(orders)) == len(orders)
    assert orders == [tuple(x.router.scores.rank_E.tolist()) for x in layers_of(opening=(0, 100))]
    others = layers_of(opening=(0, 100), seed=100)
    step_to(layers, 42)
    for layer, other in zip(layers, others, strict=True):
        assert not torch.equal(layer.router.scores.rank_E, other.router.scores.rank_E)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(layer.router.scores.rank_E, other.router.scores.rank_E)
        assert int(other.router.scores.steps) == 42


def test_an_optimiser_step_advances_every_layer_once() -> None:
    layers = layers_of(opening=(0, 10))
    model = LanguageModel(layers, width=D, length=8, n_heads=2)
    for expected in (1, 2, 3):
        after_step(model)
        assert {int(layer.router.scores.steps) for layer in layers} == {expected}


def test_the_bank_is_registered_once_and_survives_saving(tmp_path: Any) -> None:
    from wye.moe.models.language_model import load_language_model

    shape = Shape(n_layers=4, width=D, hidden=8, n_experts=N, k=2)
    options = {"reuse": 2, "opening": (0, 4)}
    model = LanguageModel.build("rexmoe", shape, length=8, n_heads=2, options=options).eval()
    banks = [name for name in model.state_dict() if name.endswith(".up")]
    assert len(banks) == 2
    after_step(model)
    ids = torch.randint(0, 256, (2, 8))
    expected = model(ids)
    loaded = load_language_model(model.save(tmp_path / "model"))
    assert torch.equal(loaded(ids), expected)


def test_the_balance_loss_is_one_where_the_open_candidates_share_evenly() -> None:
    for step, opened in ((0, N), (50, 2 * N), (100, 3 * N)):
        layers = layers_of(opening=(0, 100), balance_weight=1.0)
        step_to(layers, step)
        layer = layers[1].train()
        with torch.no_grad():
            layer.router.scores.inner.weight.zero_()
        routing = layer.router(torch.randn(30, D), line(30))
        p = routing.probabilities
        assert int((p > 0).any(dim=0).sum()) == opened
        assert float(routing.losses["balance"].detach()) == pytest.approx(1.0, abs=1e-6)


def test_a_bias_moves_open_candidates_alone_and_never_opens_one() -> None:
    layer = layers_of(opening=(0, 100), balance="bias", bias_rate=10.0)[0].train()
    scores, controller = layer.router.scores, layer.router.balance[0]
    scores.steps.fill_(50)
    opened = scores.open_at(50)
    x = torch.randn(64, D)
    for _ in range(3):
        routing = layer.router(x, line(64))
        assert not torch.isin(routing.plan.target, (~opened).nonzero()[:, 0]).any()
        load, before = routing.plan.load().double(), controller.bias_E.clone()
        controller.after_step()
        moved = controller.bias_E - before
        expected = 10.0 * torch.sign(load[opened].mean() - load[opened])
        torch.testing.assert_close(moved[opened], expected.float())
        assert float(moved[~opened].abs().sum()) == 0


def test_closed_candidates_stay_out_where_open_probabilities_underflow() -> None:
    layer = layers_of(opening=(5, 9))[1].eval()
    own = list(layer.router.scores.own)
    with torch.no_grad():
        weight = layer.router.scores.inner.weight.zero_()
        weight[own[-1], 0] = 1e4
    routing = layer.router(torch.ones(3, D), line(3))
    assert set(routing.plan.target.tolist()) <= set(own)


def test_tensors_are_loaded_by_all_layers_of_their_group() -> None:
    loads = {f"l{i}": np.arange(6.0) * (i + 1) for i in range(4)}
    groups = physical_load(loads, 2)
    np.testing.assert_array_equal(groups[0], np.arange(6.0) * 3)
    np.testing.assert_array_equal(groups[1], np.arange(6.0) * 7)
    with pytest.raises(MoEError, match="built with reuse=2"):
        physical_load({"a": np.ones(6), "b": np.ones(4)}, 2)


def test_the_last_group_holds_the_layers_that_are_left() -> None:
    layers = layers_of(reuse=4, n_layers=6)
    assert [layer.router.n_experts for layer in layers] == [16, 16, 16, 16, 8, 8]
    assert layers[4].experts.bank is layers[5].experts.bank


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(MoEError, match="at least 1"):
        layers_of(reuse=0)
    with pytest.raises(MoEError, match="start <= end"):
        layers_of(opening=(5, 4))
    with pytest.raises(MoEError, match="'loss', 'bias' or 'none'"):
        layers_of(balance="lots")
    with pytest.raises(MoEError, match="at least one of them"):
        OpenScores(LinearScores(D, 4), range(3, 6))
