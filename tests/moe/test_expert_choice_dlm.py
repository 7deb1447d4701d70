"""EC-DLM: gates, scales, capacities by mask ratio, and the conversion of a token-choice model."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from wye.core import load_balance, max_violation
from wye.moe.base import Context, MoEError, routed_layers
from wye.moe.build import Shape, routed_stack
from wye.moe.expert_choice_dlm import build, norm_scales, retrofit, router
from wye.moe.models.language_model import LanguageModel
from wye.moe.parts.balance import LoadBalanceLoss, ZLoss
from wye.moe.parts.gates import Gate
from wye.moe.parts.mask_schedules import MaskSchedule
from wye.moe.parts.scores import LinearScores, NoScores
from wye.moe.parts.selection import Capped, Selection, TopK, TopP
from wye.moe.registry import build_layers
from wye.moe.router import ComposedRouter

pytestmark = pytest.mark.torch

SHAPE = Shape(n_layers=2, width=8, hidden=6, n_experts=4, k=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def spread(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, LinearScores):
            nn.init.normal_(part.weight, std=1.0)


def bidirectional(layers: list[nn.Module]) -> LanguageModel:
    model = LanguageModel(layers, width=8, length=16, n_heads=2, vocabulary=257, causal=False)
    spread(model)
    return model


def test_gates_are_a_softmax_over_the_experts_that_chose_the_token() -> None:
    choice = router(8, 4, k=2)
    spread(choice)
    x = torch.randn(12, 8)
    routing = choice(x, Context(batch=2, length=6))
    gates, taken = routing.plan.dense(), routing.plan.with_weight(torch.ones(24)).dense() > 0
    expected = torch.softmax(routing.logits.masked_fill(~taken, -torch.inf), dim=1)
    expected = torch.where(taken.any(dim=1, keepdim=True), expected, 0.0)
    assert torch.allclose(gates, expected, atol=1e-6)


def test_experts_rank_by_logits_or_with_the_pre_gate_by_probabilities() -> None:
    x = torch.randn(16, 8)
    for kind, read in (("post", "logits"), ("sigmoid", "logits"), ("pre", "probabilities")):
        choice = router(8, 4, k=1, gate=kind)  # type: ignore[arg-type]
        spread(choice)
        routing = choice(x, Context(batch=1, length=16))
        best = getattr(routing, read).topk(4, dim=0).indices.T
        for expert in range(4):
            mine = routing.plan.source[routing.plan.target == expert]
            assert sorted(mine.tolist()) == sorted(best[expert].tolist())
        if kind == "pre":
            pairs = routing.plan.source, routing.plan.target
            assert torch.equal(routing.plan.weight, routing.probabilities[pairs])


def test_a_token_that_nobody_chose_keeps_the_shared_part_alone() -> None:
    layer = build(SHAPE, n_shared=1, z_weight=0.0)[0].eval()
    spread(layer)
    x = torch.randn(1, 32, 8)
    layer.router.selection.k = 0.25
    y = layer(x)
    lonely = layer.last.plan.fan_out() == 0
    assert 0 < int(lonely.sum()) < 32
    assert torch.isfinite(y).all()
    assert torch.allclose(y[0, lonely], layer.shared(x[0, lonely]), atol=1e-6)


def test_all_experts_for_all_tokens_is_the_dense_mixture() -> None:
    shape = Shape(n_layers=1, width=8, hidden=6, n_experts=4, k=4)
    layer = build(shape, n_shared=0)[0].eval()
    spread(layer)
    x = torch.randn(2, 5, 8)
    y = layer(x)
    assert layer.last.plan.load().tolist() == [10] * 4
    gates = torch.softmax(layer.last.logits, dim=1)
    assert torch.allclose(layer.last.plan.dense(), gates, atol=1e-6)
    flat = x.view(10, 8)
    dense = torch.zeros(10, 8)
    for expert in range(4):
        gate, up = (flat @ layer.experts.up[expert].T).chunk(2, dim=1)
        out = (nn.functional.silu(gate) * up) @ layer.experts.down[expert].T
        dense = dense + gates[:, expert, None] * out
    assert torch.allclose(y.view(10, 8), dense, atol=1e-5)


@pytest.mark.parametrize(("n_experts", "n_shared"), [(8, 1), (64, 2)])
def test_scales_rise_and_match_the_norm_of_the_shared_experts(
    n_experts: int, n_shared: int
) -> None:
    scales = norm_scales(n_experts, n_shared)
    assert len(scales) == n_experts + 1
    assert scales[0] == 1.0
    assert scales[1] == pytest.approx(n_shared**0.5)
    assert all(b > a for a, b in pairwise(scales[1:]))
    z = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    p = torch.softmax(z, dim=1)
    assert scales[2] == pytest.approx(float((n_shared**0.5 / p.norm(dim=1)).mean()), rel=5e-3)


def test_the_routed_part_is_multiplied_by_the_scale_of_its_token() -> None:
    plain, matched = router(8, 4, k=1), router(8, 4, k=1, n_shared=2)
    spread(plain)
    matched.load_state_dict(plain.state_dict())
    x, context = torch.randn(9, 8), Context(batch=1, length=9)
    one, other = plain(x, context).plan, matched(x, context).plan
    scale = torch.tensor(norm_scales(4, 2))[one.fan_out()[one.source]]
    assert torch.allclose(other.weight, one.weight * scale)
    assert len(set(one.fan_out().tolist())) > 1
    replayed = matched.weigh(other, matched(x, context))
    assert torch.allclose(replayed.weight, other.weight)


def test_static_capacity_is_exactly_balanced_and_the_schedule_costs_the_same_on_average() -> None:
    shape = Shape(n_layers=1, width=8, hidden=6, n_experts=4, k=2)
    x = torch.randn(64, 16, 8)
    ratio = (torch.arange(64) + 0.5) / 64
    pairs = []
    for options in ({}, {"k_min": 1, "k_max": 3}, {"k_min": 1, "k_max": 3, "profile": "linear"}):
        layer = build(shape, **options)[0].eval()  # type: ignore[arg-type]
        spread(layer)
        layer(x, mask_ratio=ratio)
        plan = layer.last.plan
        assert max_violation(plan.load()) == 0.0
        pairs.append(len(plan))
    assert pairs[0] == 64 * 16 * 2
    assert pairs == [pairs[0]] * 3


def test_the_model_hands_the_mask_ratio_to_its_layers() -> None:
    options = {"k_min": 1, "k_max": 3}
    model = bidirectional(build_layers("expert-choice-dlm", SHAPE, **options)).eval()
    ids = torch.randint(0, 257, (2, 8))
    model(ids, mask_ratio=torch.tensor([0.0, 1.0]))
    for layer in routed_layers(model).values():
        assert torch.bincount(layer.last.plan.source // 8, minlength=2).tolist() == [24, 8]
    with pytest.raises(MoEError, match="mask_ratio has shape None"):
        model(ids)


def test_permuting_the_tokens_of_a_sequence_permutes_the_output() -> None:
    layer = build(SHAPE)[0].eval()
    spread(layer)
    x, order = torch.randn(2, 10, 8), torch.randperm(10)
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-6)


def token_choice(selection: Selection, **options: bool) -> LanguageModel:
    return bidirectional(
        routed_stack(
            SHAPE,
            lambda _: ComposedRouter(
                8,
                LinearScores(8, 4),
                gate=Gate(normalise=True),
                selection=selection,
                balance=[LoadBalanceLoss(0.01), ZLoss(1e-3)],
            ),
            **options,
        )
    )


@pytest.mark.parametrize("selection", [TopK(2), Capped(TopK(2))])
def test_a_retrofit_keeps_every_weight_and_balances_the_load(selection: Selection) -> None:
    model = token_choice(selection)
    before = {name: id(p) for name, p in model.named_parameters()}
    ids = torch.randint(0, 257, (3, 16))
    model.eval()(ids)
    logits = next(iter(routed_layers(model).values())).last.logits
    assert retrofit(model) == 2
    assert {name: id(p) for name, p in model.named_parameters()} == before
    model(ids)
    for layer in routed_layers(model).values():
        assert layer.last.plan.load().tolist() == [3 * 8] * 4
        assert not layer.router.contracts.causal
    first = next(iter(routed_layers(model).values())).last
    assert torch.equal(first.logits, logits)
    assert float(load_balance(torch.softmax(first.logits, 1), first.plan)) == pytest.approx(1.0)
    model.train()(ids)
    assert set(model.blocks[0].feed_forward.last.losses) == {"z"}


def test_a_retrofit_with_a_schedule_follows_the_mask_ratio() -> None:
    model = token_choice(TopK(2)).eval()
    retrofit(model, schedule=MaskSchedule(k_min=1, k_max=3))
    model(torch.randint(0, 257, (2, 8)), mask_ratio=torch.tensor([0.0, 1.0]))
    plan = model.blocks[0].feed_forward.last.plan
    assert torch.bincount(plan.source // 8).tolist() == [24, 8]


def test_a_retrofit_of_what_cannot_be_is_refused_and_changes_nothing() -> None:
    causal = LanguageModel(build_layers("top_k", SHAPE), width=8, length=8, n_heads=2)
    with pytest.raises(MoEError, match="autoregressive"):
        retrofit(causal)
    with pytest.raises(MoEError, match="no routed layer"):
        retrofit(nn.Linear(2, 2))
    mixed = bidirectional(
        [
            *build_layers("top_k", Shape(n_layers=1, width=8, hidden=6, n_experts=4)),
            *routed_stack(
                Shape(n_layers=1, width=8, hidden=6, n_experts=4),
                lambda _: ComposedRouter(8, NoScores(4), gate=Gate(), selection=TopP(0.5)),
            ),
        ]
    )
    with pytest.raises(MoEError, match="fixed fan-out"):
        retrofit(mixed)
    assert isinstance(mixed.blocks[0].feed_forward.router.selection, TopK)


def test_bad_input_is_refused() -> None:
    for options, message in (
        ({"gate": "none"}, "gate='none'"),
        ({"k_min": 1}, "needs both bounds"),
        ({"k": 5}, "5 experts per token with 4"),
        ({"k_min": 1, "k_max": 6}, "6 experts per token with 4"),
    ):
        with pytest.raises(MoEError, match=message):
            router(8, 4, **options)  # type: ignore[arg-type]
