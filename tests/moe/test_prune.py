"""Removing experts: what is left computes what it did, and routers follow."""

import math

import pytest
import torch
from torch import nn

from wye.moe import MoELayer, Shape, build_layers, get_router, record
from wye.moe.base import Context, MoEError
from wye.moe.experts import ExpertBank, Experts
from wye.moe.parts.balance import DualPrices, LossFreeBias
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import CosineScores, LinearScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter, Transform
from wye.moe.surgery.prune import cut, prune, usage
from wye.moe.yolo_master import EsMoE

pytestmark = pytest.mark.torch

D, E = 8, 5


def layer_of(**parameters):
    torch.manual_seed(0)
    return MoELayer(get_router("top_k", D, E, **parameters), Experts(E, D, 4, bias=True)).eval()


def test_experts_that_no_token_chose_leave_without_a_trace_in_the_output():
    layer = layer_of(k=2)
    with torch.no_grad():
        layer.router.scores.weight[[1, 3]] = 0.0
        layer.router.scores.weight[[0, 2, 4]] += 1.0
    x = torch.rand(30, D)
    with record(layer) as trace:
        before = layer(x)
    used = usage(trace)[""]
    assert used[[1, 3]].tolist() == [0.0, 0.0]
    assert prune(layer, used, 1e-6) == {"": [0, 2, 4]}
    assert layer.router.n_experts == layer.experts.n_experts == 3
    assert torch.allclose(layer(x), before, atol=1e-6)
    layer.train()(x).sum().backward()
    assert layer.router.scores.weight.grad.shape == (3, D)


def test_usage_is_the_mean_weight_of_an_expert_and_sums_to_the_gates():
    layer = layer_of(k=2)
    with record(layer) as trace:
        layer(torch.randn(7, D))
        layer(torch.randn(13, D))
    total = sum(plan.dense().sum(dim=0) for plan in trace[""])
    assert torch.allclose(usage(trace)[""].float(), total / 20)
    assert float(usage(trace)[""].sum()) == pytest.approx(1.0)


def test_the_most_used_expert_always_stays_and_k_follows_what_is_left():
    layer = layer_of(k=2)
    assert prune(layer, torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]), 0.9) == {"": [2]}
    assert layer.router.selection.k == layer.router.selection.fan_out == 1
    assert layer(torch.randn(3, D)).shape == (3, D)


def test_a_threshold_of_zero_removes_nothing():
    layer = layer_of(k=2)
    weight = layer.router.scores.weight
    assert prune(layer, torch.zeros(E), 0.0) == {"": list(range(E))}
    assert layer.router.scores.weight is weight


def test_layers_of_a_model_are_pruned_by_name():
    torch.manual_seed(0)
    shape = Shape(n_layers=2, width=D, hidden=4, n_experts=E)
    model = nn.Sequential(*build_layers("blockffn", shape)).eval()
    x = torch.randn(2, 6, D)
    with record(model) as trace:
        model(x)
    used = usage(trace)
    prune(model, {"1": used["1"]}, float(used["1"].median()))
    assert model[0].router.n_experts == E
    assert model[1].router.n_experts < E
    assert model[1].router.transforms[0].weight.shape == (model[1].router.n_experts,)
    assert model(x).shape == x.shape


def test_biases_prices_and_prototypes_lose_the_same_rows():
    scores = CosineScores(D, E)
    controllers = [LossFreeBias(E), DualPrices(E, 2)]
    controllers[0].bias_E += torch.arange(E)
    controllers[1].mean_E += torch.arange(E)
    router = ComposedRouter(D, scores, gate=Gate(), selection=TopK(2), balance=controllers)
    layer = MoELayer(router, Experts(E, D, 4))
    rows = scores.prototypes.detach().clone()
    prune(layer, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0]), 0.5)
    assert torch.equal(router.scores.prototypes, rows[[1, 3, 4]])
    assert controllers[0].bias_E.tolist() == [1, 3, 4]
    assert controllers[1].mean_E.tolist() == [1, 3, 4]
    layer.train()(torch.randn(9, D)).sum().backward()
    router.after_step()


@pytest.mark.parametrize("votes", [False, True])
def test_feature_map_experts_that_are_left_share_out_the_weights(votes):
    torch.manual_seed(0)
    block = EsMoE(8, n_experts=3, votes=votes).eval()
    x = torch.randn(4, 8, 9, 9)
    block(x)
    weights = block.last.plan.dense()
    kept = [block.experts[0], block.experts[2]]
    prune(block, torch.tensor([0.5, 0.1, 0.4]), 0.15)
    assert list(block.experts) == kept
    block(x)
    shared = weights[:, [0, 2]] / weights[:, [0, 2]].sum(dim=1, keepdim=True)
    if not votes:
        assert torch.allclose(block.last.plan.dense(), shared, atol=1e-6)
    assert torch.allclose(block.last.plan.dense().sum(dim=1), torch.ones(4), atol=1e-6)


def test_parts_that_hold_something_per_expert_and_say_nothing_are_refused():
    class Scale(Transform):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(E))

        def forward(self, affinity, candidates):
            return affinity * self.factor

    router = ComposedRouter(
        D, LinearScores(D, E), gate=Gate(), selection=TopK(1), transforms=[Scale()]
    )
    layer = MoELayer(router, Experts(E, D, 4))
    with pytest.raises(MoEError, match=r"Scale does not say.*cut\.register"):
        prune(layer, torch.tensor([1.0, 1, 1, 1, 0]), 0.5)

    @cut.register
    def _(module: Scale, kept: torch.Tensor) -> None:
        module.factor = nn.Parameter(module.factor.detach()[kept])

    layer = MoELayer(
        ComposedRouter(D, LinearScores(D, E), gate=Gate(), selection=TopK(1), transforms=[Scale()]),
        Experts(E, D, 4),
    )
    prune(layer, torch.tensor([1.0, 1, 1, 1, 0]), 0.5)
    assert layer(torch.randn(3, D)).shape == (3, D)


def test_experts_of_a_bank_are_refused_and_nothing_changes():
    bank = ExpertBank(6, width=D, hidden=4)
    layer = MoELayer(get_router("top_k", D, E), bank.view(range(E)))
    with pytest.raises(MoEError, match="bank"):
        prune(layer, torch.tensor([1.0, 1, 1, 1, 0]), 0.5)
    assert layer.router.n_experts == E


def test_usage_that_does_not_fit_is_refused():
    layer = layer_of(k=1)
    with pytest.raises(MoEError, match="expected 5 numbers"):
        prune(layer, torch.ones(4), 0.5)
    with pytest.raises(MoEError, match="expected 5 numbers"):
        prune(layer, torch.tensor([1.0, 1, 1, 1, math.nan]), 0.5)
    with pytest.raises(MoEError, match="no routed layers"):
        prune(nn.Sequential(layer), {"7": torch.ones(E)}, 0.5)
    with pytest.raises(MoEError, match="does not say"):
        cut(nn.Linear(2, 2), torch.tensor([0]))
    assert layer.router(torch.randn(3, D), Context(batch=1, length=3)).plan.n_targets == E
