"""p values are uniform where nothing is there, and Holm's are those of his procedure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.query.metrics.resample import Resample
from wye.query.metrics.significance import holm, paired_p


def rejected(p: list[float], level: float) -> set[int]:
    """Holm's step-down: the smallest p against level / N, and on until one does not fall below."""
    found: set[int] = set()
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > level / (len(p) - k):
            break
        found.add(i)
    return found


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8), st.floats(0.01, 0.3))
@settings(max_examples=80)
def test_corrected_values_reject_what_the_procedure_rejects(p: list[float], level: float) -> None:
    corrected = holm(np.array(p))
    assert {i for i, c in enumerate(corrected) if c <= level} == rejected(p, level)
    assert (corrected >= np.array(p)).all()


def test_an_unknown_difference_is_neither_counted_nor_corrected() -> None:
    corrected = holm(np.array([0.02, np.nan, 0.03]))
    np.testing.assert_allclose(corrected, [0.04, np.nan, 0.04])
    assert np.isnan(paired_p(np.full(10, np.nan)))


def test_the_chance_of_a_false_finding_is_what_p_says() -> None:
    rng = np.random.default_rng(0)
    small = 0
    for k in range(300):
        draws = Resample(60, 150, seed=k)
        small += paired_p(draws.mean(rng.normal(0.0, 1.0, 60))) < 0.1
    # Binomial(300, 0.1): four standard deviations are 21, and the bootstrap errs by a little.
    assert 12 <= small <= 55


def test_a_difference_without_spread_is_certain_or_nothing() -> None:
    assert paired_p(np.zeros(5)) == 1.0
    assert paired_p(np.full(5, 0.2)) == pytest.approx(0.0)
