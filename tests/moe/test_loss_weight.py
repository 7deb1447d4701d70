"""Weights of losses that move with what they see."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wye.moe.base import MoEError
from wye.moe.parts.loss_weight import LossWeight, RatioWeight, TargetWeight, as_weight

pytestmark = pytest.mark.torch


def steps(weight, values):
    """The weight before each step, and the one after the last."""
    seen = [weight.value]
    for value in values:
        weight.observe(torch.tensor(value))
        weight.after_step()
        seen.append(weight.value)
    return seen


def test_a_constant_stays():
    assert steps(as_weight(0.3), [1.0, 5.0]) == [0.3, 0.3, 0.3]


def test_the_warm_up_is_linear_and_then_constant_until_stable():
    weight = RatioWeight(1.0, warmup=4, stable=8, window=2)
    seen = steps(weight, [1.0] * 8)
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_a_falling_loss_lowers_the_weight_by_its_ratio_over_the_next_window():
    weight = RatioWeight(1.0, warmup=0, stable=0, window=2)
    seen = steps(weight, [1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    assert seen[:5] == pytest.approx([1.0] * 5)
    assert seen[5:] == pytest.approx([0.75, 0.5])


def test_a_rising_loss_raises_it_by_at_least_the_least_growth_and_never_above_the_limit():
    weight = RatioWeight(1.0, warmup=0, stable=0, window=1, at_most=4.0)
    steps(weight, [1.0, 1.001, 1.001])
    assert weight.value == pytest.approx(1.025)
    steps(weight, [10.0, 100.0, 1000.0])
    assert weight.value == pytest.approx(4.0)


def test_a_shared_weight_sees_the_mean_and_moves_once_per_step():
    weight = RatioWeight(1.0, warmup=0, stable=0, window=1)
    for values in [(0.5, 1.5), (0.2, 0.8), (0.5, 0.5)]:
        for value in values:
            weight.observe(torch.tensor(value))
        for _ in range(2):
            weight.after_step()
    assert weight.steps == 3
    assert weight.value == pytest.approx(0.5)


def test_a_step_without_observation_changes_nothing():
    weight = TargetWeight(0.2, initial=1.0)
    weight.after_step()
    assert (weight.steps, weight.value) == (0, 1.0)


def test_the_target_controller_moves_by_alpha_towards_its_target():
    weight = TargetWeight(0.25, initial=1.0, alpha=1.2)
    assert steps(weight, [0.3, 0.3, 0.1, 0.25]) == pytest.approx([1.0, 1.2, 1.44, 1.2, 1.2])


def test_the_state_is_saved_and_keeps_its_precision_through_a_cast():
    weight = RatioWeight(0.1, warmup=2, stable=3, window=2)
    steps(weight, [1.0, 0.9, 0.8, 0.7, 0.65])
    module = nn.ModuleList([weight]).bfloat16()
    other = nn.ModuleList([RatioWeight(0.1, warmup=2, stable=3, window=2)])
    other.load_state_dict(module.state_dict())
    rest = [0.5, 0.4, 0.45, 0.3]
    assert steps(other[0], rest) == steps(weight, rest)


def test_recomputation_under_checkpointing_is_not_observed_twice():
    weight = TargetWeight(0.2, initial=1.0)

    def layer(x):
        weight.observe(x.mean())
        return x * 2

    x = torch.ones(3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert weight._count == 1


def test_over_takes_its_lengths_from_the_training():
    weight = RatioWeight.over(0.1, 600)
    assert (weight.warmup, weight.stable, weight.window) == (12, 60, 6)
    assert RatioWeight.over(0.1, 5).window == 1


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: LossWeight(-1.0), "-1.0"),
        (lambda: RatioWeight(1.0, warmup=5, stable=2, window=1), "warmup=5"),
        (lambda: RatioWeight(1.0, warmup=0, stable=0, window=0), "window=0"),
        (lambda: TargetWeight(1.0), "target=1.0"),
        (lambda: TargetWeight(0.5, alpha=1.0), "alpha=1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, part):
    with pytest.raises(MoEError, match=part):
        make()
