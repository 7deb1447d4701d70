"""Which deployment of a target takes the next request."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.balancing import Balancer, PeakEwma


@dataclass(eq=False)
class Server:
    weight: float = 1.0
    in_flight: int = 0
    latency: PeakEwma = field(default_factory=PeakEwma)


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def balancer(balance):
    return Balancer(balance, random.Random(3))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 3))
def test_weighted_gives_each_exactly_its_share_of_every_round(weights, rounds):
    servers = [Server(weight) for weight in weights]
    balance = balancer("weighted")
    for _ in range(rounds):
        picks = Counter(balance.pick(servers) for _ in range(sum(weights)))
        assert [picks[at] for at in range(len(servers))] == weights


def test_weighted_spreads_a_heavy_servers_turns():
    servers = [Server(5), Server(1), Server(1)]
    balance = balancer("weighted")
    # The order that nginx gives for these weights.
    assert "".join("abc"[balance.pick(servers)] for _ in range(7)) == "aabacaa"


def test_weighted_goes_on_when_a_server_is_missing_for_a_while():
    servers = [Server(), Server(), Server()]
    balance = balancer("weighted")
    picks = Counter(balance.pick(servers[:2]) for _ in range(10))
    assert picks == {0: 5, 1: 5}
    assert Counter(balance.pick(servers) for _ in range(30)) == {0: 10, 1: 10, 2: 10}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=6))
def test_least_busy_is_never_beaten(loads):
    servers = [Server(weight, in_flight) for weight, in_flight in loads]
    chosen = servers[balancer("least-busy").pick(servers)]
    assert all(chosen.in_flight / chosen.weight <= s.in_flight / s.weight for s in servers)


def test_least_busy_takes_turns_among_the_idle():
    servers = [Server(), Server(), Server()]
    balance = balancer("least-busy")
    assert Counter(balance.pick(servers) for _ in range(9)) == {0: 3, 1: 3, 2: 3}


def test_of_two_the_faster_one_is_taken_and_of_many_the_slowest_never():
    clock = Clock()
    servers = [Server(latency=PeakEwma(clock=clock)) for _ in range(4)]
    for at, server in enumerate(servers):
        server.latency.observe(1.0 + at)
    balance = balancer("latency")
    picks = Counter(balance.pick(servers) for _ in range(600))
    assert picks[3] == 0
    assert picks[0] > picks[1] > picks[2] > 0


def test_requests_in_flight_make_a_fast_server_wait_its_turn():
    fast, slow = Server(), Server()
    fast.latency.observe(1.0)
    slow.latency.observe(2.5)
    balance = balancer("latency")
    for _ in range(200):
        [fast, slow][balance.pick([fast, slow])].in_flight += 1
    assert abs(fast.in_flight / slow.in_flight - 2.5) < 0.5


def test_a_server_never_measured_is_tried_by_one_request_at_a_time():
    known, fresh = Server(), Server()
    known.latency.observe(0.001)
    balance = balancer("latency")
    assert balance.pick([known, fresh]) == 1
    fresh.in_flight = 1
    assert balance.pick([known, fresh]) == 0


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0.001, 100)), min_size=1, max_size=30))
def test_a_peak_shows_at_once_and_decays(steps):
    clock = Clock()
    latency = PeakEwma(memory=10.0, clock=clock)
    assert latency.seconds is None
    peak = 0.0
    for wait, seconds in steps:
        clock.now += wait
        before = latency.seconds
        latency.observe(seconds)
        after = latency.seconds
        if before is None or seconds >= before:
            assert after == seconds
        else:
            assert seconds * (1 - 1e-9) <= after <= peak * (1 + 1e-9)
        peak = after
    held = latency.seconds
    clock.now += 10.0
    assert latency.seconds == pytest.approx(held * 0.36787944)
