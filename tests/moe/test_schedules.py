"""Numbers of experts over depth: totals, shapes and bounds."""

import pytest

from wye.moe.base import MoEError
from wye.moe.parts.schedules import KINDS, expert_schedule

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_every_schedule_sums_to_its_budget_and_leaves_no_layer_empty(kind, power):
    for n_layers in range(1, 13):
        for budget in range(n_layers, 8 * n_layers + 1):
            sizes = expert_schedule(n_layers, budget, kind, power=power)
            assert len(sizes) == n_layers
            assert sum(sizes) == budget
            assert min(sizes) >= 1


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_descent_never_rises_and_an_ascent_never_falls(power):
    for n_layers in range(1, 13):
        for budget in range(n_layers, 8 * n_layers + 1):
            down = expert_schedule(n_layers, budget, "descending", power=power)
            up = expert_schedule(n_layers, budget, "ascending", power=power)
            assert list(down) == sorted(down, reverse=True)
            assert list(up) == sorted(up)


def test_uniform_layers_differ_by_one_expert_at_most():
    for budget in range(6, 60):
        sizes = expert_schedule(6, budget, "uniform")
        assert max(sizes) - min(sizes) <= 1


def test_bounds_that_meet_the_budget_are_kept_exactly():
    assert expert_schedule(6, 24, "descending", least=1, most=7) == (7, 6, 5, 3, 2, 1)
    assert expert_schedule(6, 24, "ascending", least=1, most=7) == (1, 2, 3, 5, 6, 7)
    assert expert_schedule(7, 29, "pyramid", least=2, most=7) == (2, 4, 5, 7, 5, 4, 2)


def test_a_pyramid_rises_to_the_middle_and_a_valley_falls_to_it():
    for n_layers in range(3, 12):
        for budget in range(n_layers, 8 * n_layers):
            pyramid = expert_schedule(n_layers, budget, "pyramid")
            valley = expert_schedule(n_layers, budget, "valley")
            first, second = slice(0, (n_layers + 1) // 2), slice(n_layers // 2, None)
            assert list(pyramid[first]) == sorted(pyramid[first])
            assert list(pyramid[second]) == sorted(pyramid[second], reverse=True)
            assert list(valley[first]) == sorted(valley[first], reverse=True)
            assert list(valley[second]) == sorted(valley[second])


def test_an_inverted_wave_is_high_where_the_wave_is_low():
    wave = expert_schedule(9, 36, "wave", frequency=1.0)
    inverted = expert_schedule(9, 36, "inverted_wave", frequency=1.0)
    assert wave[2] == max(wave) == inverted[6]
    assert wave[6] == min(wave) == inverted[2]


def test_a_power_of_two_descends_slowly_first():
    assert expert_schedule(5, 21, "descending", most=7, power=2.0)[1] > 4
    plain = expert_schedule(11, 66, "ascending", least=1, most=11)
    bent = expert_schedule(11, 66, "ascending", least=1, most=11, power=2.0)
    assert bent[5] < plain[5]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((3, 2, "uniform"), "at least one expert per layer"),
        ((0, 2, "uniform"), "n_layers=0"),
        ((2, 2.5, "uniform"), "budget=2.5"),
        ((3, 9, "zigzag"), "zigzag"),
    ],
)
def test_what_makes_no_schedule_is_refused(arguments, part):
    with pytest.raises(MoEError, match=part):
        expert_schedule(*arguments)


def test_bounds_and_powers_out_of_order_are_refused():
    with pytest.raises(MoEError, match="least=5 and most=2"):
        expert_schedule(3, 9, "descending", least=5, most=2)
    with pytest.raises(MoEError, match="power=0"):
        expert_schedule(3, 9, "descending", power=0)
