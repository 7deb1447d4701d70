"""The controller that first spreads a router, then sharpens it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wye.moe import MoEError, get_router
from wye.moe.base import make_context
from wye.moe.parts.entropy_schedule import EntropySchedule

pytestmark = pytest.mark.torch


def switched(schedule: EntropySchedule, h_use: float, steps: int) -> int | None:
    for _ in range(steps):
        schedule.observe(0.5, h_use)
    return schedule.switched_at


def test_constant_coverage_switches_at_the_same_step_each_time():
    found = [switched(EntropySchedule(1000, 4, window=50), 0.95, 600) for _ in range(2)]
    assert found == [100, 100]
    late = EntropySchedule(1000, 4, window=150)
    assert switched(late, 0.95, 600) == 149
    assert not late.forced


def test_without_coverage_the_switch_is_forced_and_said_to_be():
    schedule = EntropySchedule(100, 4, window=10)
    assert switched(schedule, 0.5, 60) is None
    schedule.observe(0.5, 0.5)
    assert schedule.switched_at == 60
    assert schedule.forced


@given(st.lists(st.floats(0, 1), min_size=60, max_size=120))
def test_stage_two_is_never_taken_back(coverages):
    schedule = EntropySchedule(100, 4, window=5, ramp=10, momentum=0.5)
    stages = []
    for h_use in coverages:
        schedule.observe(0.3, h_use)
        stages.append(schedule.stage)
    assert stages == sorted(stages)
    assert stages[-1] == (2 if len(coverages) > 60 else stages[-1])


def test_the_ramp_waits_while_coverage_is_under_the_floor():
    schedule = EntropySchedule(10, 4, earliest=0.0, latest=0.0, ramp=4, momentum=0.0)
    schedule.observe(0.5, 0.9)
    assert schedule.sharpening == 0
    schedule.observe(0.5, 0.9)
    assert schedule.sharpening == pytest.approx(0.05 / 4)
    for _ in range(3):
        schedule.observe(0.5, 0.1)
    assert schedule.sharpening == pytest.approx(0.05 / 4)
    for _ in range(9):
        schedule.observe(0.5, 0.9)
    assert schedule.sharpening == pytest.approx(0.05)


def test_the_window_asks_for_quiet_confidence_where_told_to():
    schedule = EntropySchedule(1000, 4, window=5, earliest=0.0, settled=0.01, momentum=0.0)
    for step in range(40):
        schedule.observe(0.02 * step, 0.95)
    assert schedule.stage == 1
    for _ in range(7):
        schedule.observe(0.5, 0.95)
    assert schedule.stage == 2


def routed(schedule: EntropySchedule, n: int = 300):
    torch.manual_seed(0)
    router = get_router("top_k", 8, 4)
    router.balance.append(schedule)
    x = torch.randn(n, 8)
    return router, x, make_context(x)


def test_confidence_never_exceeds_coverage_and_equals_it_where_all_rows_are_equal():
    router, x, context = routed(EntropySchedule(10, 4, earliest=0.0, latest=0.0, ramp=0))
    router(x, context)
    router.after_step()
    losses = {n: v.detach() for n, v in router(x * 100, context).losses.items()}
    assert float(losses["confidence"]) / 0.05 <= float(losses["coverage"]) / -0.1
    equal = router(x[:1].expand(300, 8), context).losses
    torch.testing.assert_close(equal["confidence"] / 0.05, equal["coverage"] / -0.1)


def test_only_coverage_is_trained_before_the_switch():
    router, x, context = routed(EntropySchedule(1000, 4))
    assert float(router(x, context).losses["confidence"]) == 0
    assert float(router(x, context).losses["coverage"]) < 0


def test_small_steps_read_coverage_off_a_running_mean():
    p = torch.eye(4)
    schedules = [EntropySchedule(1000, 4, small=small, momentum=0.9) for small in (0, 256)]
    for step in range(200):
        for schedule in schedules:
            schedule._seen = [(0.0, p[step % 4])]
            schedule._rows = 1
            schedule.after_step()
    assert float(schedules[0].averages[1]) == 0
    assert float(schedules[1].averages[1]) > 0.9


def test_its_state_travels_in_the_state_dict():
    first, second = EntropySchedule(100, 4, window=5), EntropySchedule(100, 4, window=5)
    for _ in range(30):
        first.observe(0.5, 0.95)
    second.load_state_dict(first.state_dict())
    assert second.switched_at == first.switched_at == 10
    assert second.sharpening == first.sharpening


def test_shares_out_of_order_are_refused():
    with pytest.raises(MoEError, match="shares of the training in order"):
        EntropySchedule(10, 4, earliest=0.7, latest=0.6)
    with pytest.raises(MoEError, match="window=0"):
        EntropySchedule(10, 4, window=0)
