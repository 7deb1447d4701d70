"""A lasting shift is noticed in either direction, and noise is let pass."""

import numpy as np
import pytest

from wye.core import Cusum, SelectionError


def naive(residuals: list[float], slack: float, threshold: float) -> list[bool]:
    """The sums written out: the largest sum of any run of residuals that ends here."""
    found = []
    for end in range(1, len(residuals) + 1):
        runs = [residuals[start:end] for start in range(end + 1)]
        up = max(sum(r - slack for r in run) for run in runs)
        down = max(sum(-r - slack for r in run) for run in runs)
        found.append(max(up, down) > threshold)
    return found


def test_the_sums_are_the_largest_of_all_runs_that_end_here() -> None:
    residuals = np.random.default_rng(0).normal(0.3, 1.0, 60).tolist()
    watch = Cusum(slack=0.4, threshold=3.0)
    assert [watch.update(r) for r in residuals] == naive(residuals, 0.4, 3.0)


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_a_shift_is_found_soon_and_its_direction_is_told(shift: float) -> None:
    generator = np.random.default_rng(1)
    watch = Cusum(slack=0.5, threshold=8.0, spread=2.0)
    assert not any(watch.update(2.0 * r) for r in generator.normal(size=200))
    found = [watch.update(2.0 * (r + shift)) for r in generator.normal(size=40)]
    assert found[-1]
    assert watch.direction == np.sign(shift)
    assert watch.alarms == 1
    watch.reset()
    assert watch.direction == 0


def test_bad_numbers_are_refused() -> None:
    for bad in ({"slack": -1.0}, {"threshold": 0.0}, {"spread": float("nan")}):
        with pytest.raises(SelectionError, match=next(iter(bad))):
            Cusum(**bad)
    with pytest.raises(SelectionError, match="residual is nan"):
        Cusum().update(float("nan"))
