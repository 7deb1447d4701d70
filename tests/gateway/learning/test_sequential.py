"""Bounds on a difference that hold at every look: their error, their power, their edges."""

from __future__ import annotations

import numpy as np
import pytest

from wye.gateway.learning.sequential import Sums, difference

ALPHA, LEAST = 0.05, 30


def looks(candidate: np.ndarray, control: np.ndarray, arms: np.ndarray):
    """The difference after every unit from the first that says something."""
    values = np.where(arms, candidate, control)
    for step in range(2 * LEAST, len(arms), 5):
        seen, given = values[:step], arms[:step]
        sums = [
            Sums(int(part.size), float(part.sum()), float((part * part).sum()))
            for part in (seen[given], seen[~given])
        ]
        yield difference("x", *sums, alpha=ALPHA, least=LEAST)


DRAWS = {
    "yes or no": lambda g, n: (g.random(n) < 0.8).astype(float),
    "rarely": lambda g, n: (g.random(n) < 0.1).astype(float),
    "cost": lambda g, n: 1e-4 * g.lognormal(0.0, 1.0, n),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_looking_all_the_time_is_wrong_no_more_often_than_alpha(draw, share):
    generator = np.random.default_rng(1)
    runs, length = 200, 800
    wrong = 0
    for _ in range(runs):
        arms = generator.random(length) < share
        found = looks(draw(generator, length), draw(generator, length), arms)
        wrong += any(one.low is not None and not one.low <= 0.0 <= one.high for one in found)
    # The share of wrong runs is at most alpha; three standard deviations for the runs' own chance.
    assert wrong / runs <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_a_real_difference_is_found_and_its_bounds_hold_the_truth():
    generator = np.random.default_rng(2)
    length, found_at, held = 4000, [], 0
    runs = 20
    for _ in range(runs):
        arms = generator.random(length) < 0.5
        better = (generator.random(length) < 0.8).astype(float)
        worse = (generator.random(length) < 0.6).astype(float)
        told = list(looks(better, worse, arms))
        first = next((i for i, one in enumerate(told) if one.low is not None and one.low > 0), None)
        found_at.append(first)
        held += all(one.low <= 0.2 <= one.high for one in told if one.low is not None)
    assert None not in found_at
    assert held >= runs - 3


def test_the_p_value_and_the_bounds_say_the_same():
    generator = np.random.default_rng(4)
    for _ in range(200):
        n, m = generator.integers(LEAST, 500, 2)
        first = generator.random(n) < generator.random()
        second = generator.random(m) < generator.random()
        sums = [Sums(len(p), float(p.sum()), float(p.sum())) for p in (first, second)]
        told = difference("x", *sums, alpha=ALPHA, least=LEAST)
        if told.low is not None:
            assert (told.p < ALPHA) == (told.low > 0 or told.high < 0)
            assert told.low <= told.estimate <= told.high


def test_nothing_is_said_of_too_few_units_or_of_units_that_are_all_alike():
    few = difference("x", Sums(29, 29, 29), Sums(500, 0, 0), alpha=ALPHA, least=LEAST)
    assert few.low is None
    assert few.p == 1.0
    alike = difference("x", Sums(500, 500, 500), Sums(500, 500, 500), alpha=ALPHA, least=LEAST)
    assert alike.low is None
    assert alike.estimate == 0.0
    rounded = Sums(100_000, sum([0.7] * 100_000), sum([0.7 * 0.7] * 100_000))
    assert difference("x", rounded, rounded, alpha=ALPHA, least=LEAST).low is None
    apart = difference("x", Sums(40, 0, 0), Sums(40, 40, 40), alpha=ALPHA, least=LEAST)
    assert apart.high < 0
    nothing = difference("x", Sums(), Sums(500, 1, 1), alpha=ALPHA, least=LEAST)
    assert nothing.estimate is None
