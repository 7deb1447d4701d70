"""The circuit breaker against a plain reading of its rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.breaker import Breaker, State

STEPS = st.lists(
    st.one_of(
        st.sampled_from(["enter", "succeed", "fail", "abandon"]), st.floats(0, 30).map(float)
    ),
    max_size=60,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_so_many_failures_in_a_row_and_not_before():
    breaker = Breaker(failures=3, clock=Clock())
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.state is State.CLOSED
    breaker.failed()
    assert breaker.state is State.OPEN
    assert not breaker.enter()


def test_half_open_lets_one_through_and_its_success_closes():
    clock = Clock()
    breaker = Breaker(failures=1, cooldown=10, clock=clock)
    breaker.failed()
    clock.now += 9.9
    assert not breaker.enter()
    clock.now += 0.1
    assert breaker.state is State.HALF_OPEN
    assert breaker.enter()
    assert not breaker.enter()
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert breaker.enter()


def test_each_failed_probe_doubles_the_wait_up_to_the_limit():
    clock = Clock()
    breaker = Breaker(failures=1, cooldown=10, cooldown_limit=35, clock=clock)
    breaker.failed()
    waits = []
    for _ in range(4):
        clock.now += breaker.retry_after
        assert breaker.enter()
        breaker.failed()
        waits.append(breaker.retry_after)
    assert waits == [20, 35, 35, 35]
    clock.now += 35
    assert breaker.enter()
    breaker.succeeded()
    breaker.failed()
    assert breaker.retry_after == 10


def test_a_target_that_asks_for_rest_gets_it_at_once():
    breaker = Breaker(failures=5, cooldown_limit=300, clock=Clock())
    breaker.failed(retry_after=42)
    assert breaker.retry_after == 42
    breaker = Breaker(failures=5, cooldown_limit=300, clock=Clock())
    breaker.failed(retry_after=10_000)
    assert breaker.retry_after == 300


@given(STEPS)
def test_its_promises_hold_after_any_sequence(steps):
    clock = Clock()
    breaker = Breaker(failures=2, cooldown=5, cooldown_limit=20, clock=clock)
    inside = in_a_row = 0
    probing = False
    for step in steps:
        if isinstance(step, float):
            clock.now += step
        elif step == "enter":
            state, might = breaker.state, breaker.available
            assert breaker.enter() == might
            assert might == (state is State.CLOSED or (state is State.HALF_OPEN and not probing))
            probing = probing or (might and state is State.HALF_OPEN)
            inside += might
        elif inside:
            inside -= 1
            probing = False
            if step == "succeed":
                in_a_row = 0
                breaker.succeeded()
                assert breaker.state is State.CLOSED
            elif step == "fail":
                in_a_row += 1
                breaker.failed()
                assert (breaker.state is State.CLOSED) == (in_a_row < 2)
            else:
                breaker.abandoned()
        assert (breaker.state is State.OPEN) == (breaker.retry_after > 0)
        assert breaker.retry_after <= 20


@pytest.mark.parametrize("bad", [{"failures": 0}, {"cooldown": -1}, {"cooldown_limit": 1}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected failures"):
        Breaker(**bad)
