"""Selections whose fan-out follows the scores."""

import math

import numpy as np
import pytest
import torch

from wye.core import SelectionError
from wye.moe.base import Context, MoEError
from wye.moe.parts.selection import Candidates
from wye.moe.parts.thresholds import AboveQuantile, Positive, percentile_fan_out

pytestmark = pytest.mark.torch


def candidates(affinity, logits=None, bias=None):
    n = affinity.shape[0]
    return Candidates(
        affinity,
        affinity if logits is None else logits,
        torch.zeros(n, 1),
        Context(batch=1, length=n),
        bias,
    )


@pytest.fixture
def gates():
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(torch.randn(64, 6, generator=generator), dim=1)


@pytest.mark.parametrize("n", range(2, 33))
def test_the_percentile_of_own_values_leaves_a_fixed_number_above(n):
    values = np.sort(np.random.default_rng(n).random(n))
    for tenth in range(11):
        # The exact percentile in rational arithmetic: place tau (n - 1) between order statistics.
        below, rest = divmod(tenth * (n - 1), 10)
        high = values[min(below + 1, n - 1)]
        percentile = values[below] + rest / 10 * (high - values[below])
        above = int((values > percentile).sum())
        assert percentile_fan_out(n, tenth / 10) == max(1, above)


def test_the_ends_of_the_percentile_are_one_and_all_but_one():
    for n in range(2, 33):
        assert percentile_fan_out(n, 1.0) == 1
        assert percentile_fan_out(n, 0.0) == n - 1
    assert percentile_fan_out(1, 0.5) == 1


def test_a_batch_quantile_takes_what_lies_above_it_and_always_the_best(gates):
    rule = AboveQuantile(0.7).train()
    plan = rule(candidates(gates))
    flat = np.sort(gates.numpy().ravel())
    place = 0.7 * (flat.size - 1)
    low = flat[int(place)]
    theta = low + (place - int(place)) * (flat[int(place) + 1] - low)
    wanted = gates.numpy() > theta
    wanted[np.arange(64), gates.numpy().argmax(axis=1)] = True
    assert np.array_equal(plan.dense().numpy() > 0, wanted)
    assert torch.equal(plan.weight, gates[plan.source, plan.target])
    assert plan.fan_out().min() >= 1
    assert plan.fan_out().float().std() > 0


def test_evaluation_uses_the_mean_threshold_of_training_and_no_other_token(gates):
    rule = AboveQuantile(0.5).train()
    rule(candidates(gates))
    rule(candidates(gates.flip(0) ** 1.1))
    rule.eval()
    whole = rule(candidates(gates)).dense()
    alone = torch.cat([rule(candidates(row[None])).dense() for row in gates])
    assert torch.equal(whole, alone)
    theta = float(rule.threshold.value)
    assert bool(((whole > 0) == ((gates > theta) | (gates == gates.amax(1, keepdim=True)))).all())


def test_the_threshold_is_saved_with_the_router(gates):
    rule = AboveQuantile(0.5).train()
    rule(candidates(gates))
    other = AboveQuantile(0.5)
    other.load_state_dict(rule.state_dict())
    assert torch.equal(
        other.eval()(candidates(gates)).dense(), rule.eval()(candidates(gates)).dense()
    )


def test_before_training_every_token_takes_all_experts_up_to_the_cap(gates):
    assert AboveQuantile(0.5).eval()(candidates(gates)).fan_out().unique().tolist() == [6]
    capped = AboveQuantile(0.5, max_k=2).eval()(candidates(gates))
    assert capped.fan_out().unique().tolist() == [2]
    best = gates.topk(2, dim=1).indices.sort(dim=1).values
    assert torch.equal(capped.target.view(-1, 2), best)


def test_a_bias_moves_the_choice_and_not_the_weights(gates):
    bias = torch.zeros(6)
    bias[3] = 1.0
    plan = AboveQuantile(0.9, max_k=1).train()(candidates(gates, bias=bias))
    assert plan.target.unique().tolist() == [3]
    assert torch.equal(plan.weight, gates[:, 3])


def test_closed_experts_are_never_chosen(gates):
    shut = gates.clone()
    shut[:, 0] = -math.inf
    rule = AboveQuantile(0.0).train()
    assert int(rule(candidates(shut)).load()[0]) == 0
    assert int(rule.eval()(candidates(shut)).load()[0]) == 0


def test_positive_takes_the_logits_above_zero_whatever_the_affinity():
    logits = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0], [2.0, 3.0, -1.0]])
    affinity = torch.tensor([[-0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.3, -0.2, 0.0]])
    plan = Positive()(candidates(affinity, logits))
    assert plan.source.tolist() == [0, 2, 2]
    assert plan.target.tolist() == [0, 0, 1]
    assert torch.equal(plan.weight, torch.tensor([-0.5, 0.3, -0.2]))


@pytest.mark.parametrize("rule", [AboveQuantile(0.5), Positive()])
def test_no_tokens_give_an_empty_plan(rule):
    for mode in (True, False):
        plan = rule.train(mode)(candidates(torch.zeros(0, 4)))
        assert len(plan) == 0
        assert (plan.n_sources, plan.n_targets) == (0, 4)


@pytest.mark.parametrize("rule", [AboveQuantile(0.5), Positive()])
def test_nan_is_refused(rule):
    with pytest.raises(SelectionError, match="NaN"):
        rule(candidates(torch.tensor([[0.5, math.nan]])))


def test_levels_and_caps_out_of_range_are_refused():
    with pytest.raises(MoEError, match=r"tau=1\.5"):
        AboveQuantile(1.5)
    with pytest.raises(MoEError, match="max_k=0"):
        AboveQuantile(0.5, max_k=0)
    with pytest.raises(MoEError, match="n_experts=0"):
        percentile_fan_out(0, 0.5)
