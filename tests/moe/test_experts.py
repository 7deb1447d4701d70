"""Experts as modules: form, initial values, banks that several layers view."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wye.core import Plan, top_k
from wye.moe.base import MoEError
from wye.moe.dispatch.cost import Shapes, Speeds, calibrate, predicted
from wye.moe.experts import ExpertBank, Experts, FeedForward

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_all_experts_with_gates_that_sum_to_one_equal_the_dense_mixture(
    gated: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    experts = Experts(3, 8, 16, gated=gated, bias=bias, activation="gelu")
    gates = torch.softmax(torch.randn(5, 3), dim=-1)
    x = torch.randn(5, 8)
    expected = torch.zeros(5, 8)
    for e in range(3):
        one = FeedForward(8, 16, gated=gated, bias=bias, activation="gelu")
        one.load_state_dict({name: value[e] for name, value in experts.state_dict().items()})
        expected = expected + gates[:, e, None] * one(x)
    torch.testing.assert_close(experts(x, top_k(gates, 3)), expected, rtol=1e-5, atol=1e-6)


def test_initial_weights_have_the_spread_of_linear_layers_or_the_given_one() -> None:
    torch.manual_seed(0)
    experts = Experts(8, 64, 128, bias=True)
    for weight, fan_in in ((experts.up, 64), (experts.down, 128)):
        assert float(weight.abs().max()) <= fan_in**-0.5
        # The standard deviation of U(-b, b) is b / sqrt(3).
        assert float(weight.std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)
    given = Experts(8, 64, 128, bias=True, init_std=0.02)
    assert float(given.up.std()) == pytest.approx(0.02, rel=0.02)
    assert given.down_bias is not None
    assert bool((given.down_bias == 0).all())


def test_the_global_seed_decides_the_initial_weights() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(Experts(2, 4, 4).up.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_every_parameter_leads_with_the_experts() -> None:
    assert all(p.shape[0] == 6 for p in Experts(6, 4, 8, bias=True).parameters())


def test_a_bank_is_registered_once_and_seen_by_many_layers() -> None:
    bank = ExpertBank(6, 4, 8)
    model = nn.Module()
    model.bank = bank
    model.layers = nn.ModuleList([bank.view(range(4)), bank.view(range(2, 6)), bank.view([5, 0])])
    assert set(model.state_dict()) == {"bank.up", "bank.down"}
    assert len(list(model.parameters())) == 2
    x = torch.randn(3, 4)
    gates = torch.softmax(torch.randn(3, 4), dim=-1)
    plan = top_k(gates, 2)
    shifted = Plan(plan.source, plan.target + 2, plan.weight, 3, 6)
    torch.testing.assert_close(model.layers[1](x, plan), bank(x, shifted))
    few = Plan(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(2), 3, 2)
    named = Plan(torch.tensor([0, 1]), torch.tensor([5, 0]), torch.ones(2), 3, 6)
    torch.testing.assert_close(model.layers[2](x, few), bank(x, named))
    model.layers[1](x, plan).sum().backward()
    assert bank.up.grad is not None
    assert bool((bank.up.grad[:2] == 0).all())


def test_sizes_and_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(MoEError, match="hidden=0"):
        Experts(2, 4, 0)
    with pytest.raises(MoEError, match="activation='swish'"):
        Experts(2, 4, 4, activation="swish")
    with pytest.raises(MoEError, match="init_std=-1"):
        FeedForward(4, 4, init_std=-1)
    bank = ExpertBank(3, 4, 4)
    with pytest.raises(MoEError, match="from 0 to 2"):
        bank.view([3])
    with pytest.raises(MoEError, match="twice"):
        bank.view([1, 1])
    with pytest.raises(MoEError, match="4 targets and the view shows 3"):
        bank.view()(torch.zeros(1, 4), top_k(torch.rand(1, 4)))


def test_the_cost_model_reads_few_weights_for_one_token_and_walks_experts_for_many() -> None:
    def best(tokens: int, *, training: bool) -> str:
        times = predicted(Shapes(tokens, 64, 6 * tokens, 512, 256, 512, 4, training), Speeds())
        return min(times, key=times.__getitem__)

    assert best(1, training=False) == "gathered"
    assert best(4096, training=False) == "segments"
    assert best(4096, training=True) == "segments"


def test_calibration_measures_positive_speeds_and_leaves_choices_alone() -> None:
    found = calibrate(seconds=0.01)
    assert min(found.call, found.flop, found.read, found.read_alone, found.move) > 0
