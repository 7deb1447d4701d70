"""Union of Experts: everything selected is the dense block; what is selected is counted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from wye.core import SelectionError
from wye.moe.base import Context, MoEError, make_context
from wye.moe.build import Shape
from wye.moe.experts import FeedForward
from wye.moe.models.compacted_attention import LanguageModelHeads, RoutedHeads
from wye.moe.models.language_model import Attention, LanguageModel
from wye.moe.parts.scores import LinearScores
from wye.moe.recording import record, replay
from wye.moe.registry import build_layers
from wye.moe.union_of_experts import (
    UnionMLP,
    build,
    heads_router,
    route_heads,
    router,
)

pytestmark = pytest.mark.torch

WIDTH, EXPERTS = 8, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def spread(module: nn.Module) -> None:
    """Gate weights large enough that tokens differ in their choice."""
    for part in module.modules():
        if isinstance(part, LinearScores):
            nn.init.normal_(part.weight, std=1.0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("gated", "bias"), [(True, False), (False, True), (True, True)])
def test_full_selection_is_the_dense_block(causal: bool, gated: bool, bias: bool) -> None:
    dense = FeedForward(WIDTH, 12, gated=gated, bias=bias)
    layer = UnionMLP(dense, router(WIDTH, EXPERTS, k=EXPERTS, share=1.0, causal=causal))
    spread(layer)
    x = torch.randn(2, 5, WIDTH)
    for mode in (True, False):
        assert torch.allclose(layer.train(mode)(x), dense(x), atol=1e-6)


def test_all_heads_are_the_dense_attention() -> None:
    dense = LanguageModel([FeedForward(WIDTH, 4)], width=WIDTH, length=6, n_heads=2)
    ids = torch.randint(0, 256, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]])
    plain, padded = dense(ids), dense(ids, mask=mask)
    route_heads(dense, k=2)
    spread(dense)
    assert torch.allclose(dense(ids), plain, atol=1e-5)
    kept = mask.bool()
    assert torch.allclose(dense(ids, mask=mask)[kept], padded[kept], atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_permuting_experts_and_gate_together_changes_nothing(causal: bool) -> None:
    layer = UnionMLP(FeedForward(WIDTH, 12), router(WIDTH, EXPERTS, causal=causal))
    spread(layer)
    x = torch.randn(2, 6, WIDTH)
    layer(x)
    layer.eval()
    before = layer(x)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        scores = layer.router.scores
        for parameter in (scores.weight, scores.bias, layer.experts.up, layer.experts.down):
            parameter.copy_(parameter[order].clone())
        if causal:
            mean = layer.router.selection.threshold.mean_E
            mean.copy_(mean[order].clone())
    assert torch.allclose(layer(x), before, atol=1e-6)
    assert 0 < len(layer.last.plan) < 2 * 6 * EXPERTS


@pytest.mark.parametrize("over_batch", [True, False])
def test_every_expert_processes_exactly_c_tokens_of_every_sequence(over_batch: bool) -> None:
    layer = build(
        Shape(n_layers=1, width=WIDTH, hidden=3, n_experts=EXPERTS),
        causal=False,
        share=0.4,
        over_batch=over_batch,
    )[0]
    spread(layer)
    mask = torch.tensor([[1] * 10, [1] * 5 + [0] * 5, [0] * 9 + [1]])
    layer(torch.randn(3, 10, WIDTH), mask=mask)
    plan = layer.last.plan
    sequence = layer.last_context.sequence()[plan.source]
    for row, places in enumerate((4, 2, 1)):
        load = torch.bincount(plan.target[sequence == row], minlength=EXPERTS)
        assert load.tolist() == [places] * EXPERTS
    plan.validate(distinct=True)


def test_the_causal_twin_takes_the_share_on_average_and_looks_at_no_later_token() -> None:
    layer = build(Shape(n_layers=1, width=WIDTH, hidden=3, n_experts=EXPERTS), share=0.25)[0]
    spread(layer)
    for _ in range(60):
        layer(torch.randn(4, 32, WIDTH))
    layer.eval()
    x = torch.randn(16, 32, WIDTH)
    y = layer(x)
    share = layer.last.plan.load().double() / (16 * 32)
    assert (share - 0.25).abs().max() < 0.05
    changed = x.clone()
    changed[:, 20:] = torch.randn(16, 12, WIDTH)
    assert torch.equal(layer(changed)[:, :20], y[:, :20])
    layer.train()
    trained = [copy.deepcopy(layer)(some)[:, :20] for some in (x, changed)]
    assert torch.equal(*trained)


def test_ranking_over_the_batch_ends_with_training() -> None:
    layer = build(
        Shape(n_layers=1, width=WIDTH, hidden=3, n_experts=EXPERTS), causal=False, over_batch=True
    )[0]
    spread(layer)
    x = torch.randn(6, 8, WIDTH)
    alone = layer.train()(x[:1])
    together = layer(x)[:1]
    assert not torch.allclose(alone, together, atol=1e-4)
    layer.eval()
    assert torch.allclose(layer(x[:1]), layer(x)[:1], atol=1e-6)


def test_union_adds_a_gate_to_the_parameters_of_the_dense_block() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    for gated, bias in ((True, False), (False, True)):
        dense = FeedForward(WIDTH, 12, gated=gated, bias=bias)
        layer = UnionMLP(dense, router(WIDTH, EXPERTS))
        assert count(layer) == count(dense) + (WIDTH + 1) * EXPERTS


@pytest.mark.parametrize("learned", [True, False])
def test_weights_are_one_and_only_a_learned_gate_has_a_gradient(learned: bool) -> None:
    layer = UnionMLP(FeedForward(WIDTH, 12), router(WIDTH, EXPERTS, causal=False, learned=learned))
    spread(layer)
    x = torch.randn(1, 6, WIDTH)
    y = layer(x)
    assert layer.last.plan.weight.eq(1).all()
    y.square().sum().backward()
    weight = layer.router.scores.weight
    if not learned:
        assert weight.grad is None
        return
    assert weight.grad is not None
    # d y / d ln P_i is what expert i wrote.
    routing = layer.router(x[0], make_context(x))
    written = _pairs_output(layer, x[0], routing.plan.source, routing.plan.target)
    log_p = torch.log(routing.probabilities)[routing.plan.source, routing.plan.target]
    cotangent = (2 * y[0].detach()[routing.plan.source] * written).sum(dim=1).detach()
    (expected,) = torch.autograd.grad((log_p * cotangent).sum(), weight)
    assert torch.allclose(weight.grad, expected, atol=1e-5)


def _pairs_output(layer: UnionMLP, x_SD: Tensor, source: Tensor, target: Tensor) -> Tensor:
    up, down = layer.experts.up[target], layer.experts.down[target]
    gate, value = torch.einsum("npd,nd->np", up, x_SD[source]).chunk(2, dim=1)
    return torch.einsum("ndf,nf->nd", down, torch.nn.functional.silu(gate) * value)


def test_whole_sequences_go_to_the_same_experts() -> None:
    layer = UnionMLP(FeedForward(WIDTH, 12), router(WIDTH, EXPERTS, k=2, routes="sequences"))
    spread(layer)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    layer(torch.randn(3, 4, WIDTH), mask=mask)
    plan, sequence = layer.last.plan, layer.last_context.sequence()
    chosen = plan.target.view(-1, 2)
    for row in range(3):
        assert len({tuple(r) for r in chosen[sequence == row].tolist()}) == 1
    assert len({tuple(r) for r in chosen.tolist()}) > 1
    assert not layer.router.contracts.causal


def test_every_token_gets_its_own_heads_and_the_first_gets_all() -> None:
    smha = heads_router(WIDTH, 4, k=2, first=1)
    spread(smha)
    x = torch.randn(2, 5, WIDTH)
    plan = smha(x.view(10, WIDTH), make_context(x)).plan
    assert plan.fan_out().tolist() == [4, 2, 2, 2, 2] * 2
    no_sink = heads_router(WIDTH, 4, k=2, first=0)
    assert no_sink(x.view(10, WIDTH), make_context(x)).plan.fan_out().eq(2).all()


def test_routed_heads_look_at_no_later_token_and_no_other_sequence() -> None:
    heads = RoutedHeads(Attention(WIDTH, 2, True), heads_router(WIDTH, 2, k=1))
    spread(heads)
    x = torch.randn(3, 9, WIDTH)
    y = heads(x)
    assert 0 < len(heads.last.plan) < 2 * 27
    changed = x.clone()
    changed[:, 6:] = 0.0
    assert torch.allclose(heads(changed)[:, :6], y[:, :6], atol=1e-6)
    assert torch.allclose(heads(x[1:2]), y[1:2], atol=1e-6)


def test_routed_heads_record_replay_and_learn() -> None:
    model = route_heads(
        LanguageModel(
            build_layers(
                "union-of-experts", Shape(n_layers=2, width=WIDTH, hidden=3, n_experts=EXPERTS)
            ),
            width=WIDTH,
            length=8,
            n_heads=2,
        )
    )
    ids = torch.randint(0, 256, (2, 8))
    with record(model) as trace:
        first = model(ids)
    assert len(trace) == 4
    with replay(model, trace):
        assert torch.allclose(model(ids), first, atol=1e-6)
    first.logsumexp(dim=-1).mean().backward()
    gates = [m for m in model.modules() if isinstance(m, LinearScores)]
    assert len(gates) == 4
    assert all(g.weight.grad is not None and g.weight.grad.abs().sum() > 0 for g in gates)


def test_attention_weights_of_routed_heads_are_refused() -> None:
    heads = LanguageModelHeads(RoutedHeads(Attention(WIDTH, 2, True), heads_router(WIDTH, 2)))
    with pytest.raises(MoEError, match="attention of this model dense"):
        heads(torch.zeros(1, 2, WIDTH), torch.zeros(2, 2, 2), None, True)


def test_bad_input_is_refused() -> None:
    for options, message in (
        ({"k": 5}, "k=5 with 4 experts"),
        ({"share": 0.0}, "share=0.0"),
        ({"over_batch": True}, "not with causal=True"),
        ({"routes": "words"}, "routes='words'"),
    ):
        with pytest.raises(MoEError, match=message):
            router(WIDTH, EXPERTS, **options)
    with pytest.raises(MoEError, match="divisor"):
        UnionMLP(FeedForward(WIDTH, 10), router(WIDTH, EXPERTS))
    with pytest.raises(MoEError, match="first=-1"):
        heads_router(WIDTH, 4, first=-1)
    with pytest.raises(MoEError, match="chooses among 3 heads and the layer has 2"):
        RoutedHeads(Attention(WIDTH, 2, True), heads_router(WIDTH, 3))
    for causal in (True, False):
        broken = router(WIDTH, EXPERTS, causal=causal)
        with pytest.raises(SelectionError, match="NaN"):
            broken(torch.full((2, WIDTH), torch.nan), Context(batch=1, length=2))


def test_no_tokens_give_no_output() -> None:
    for causal in (True, False):
        layer = UnionMLP(FeedForward(WIDTH, 12), router(WIDTH, EXPERTS, causal=causal))
        assert layer(torch.zeros(0, WIDTH)).shape == (0, WIDTH)
