"""Smooth losses of named arrays: where their minimum is, and which weight decay is chosen."""

from __future__ import annotations

import numpy as np

from wye.query.learning.estimator import effective_parameters, fitted_std
from wye.query.learning.lbfgs import Arrays, minimise, minimise_penalised


def least_squares(x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    def loss(rows: np.ndarray, arrays: Arrays) -> tuple[float, Arrays]:
        error = x[rows] @ arrays["w"] - y[rows]
        n = len(rows)
        return float(error @ error) / (2 * n), {"w": x[rows].T @ error / n}

    return loss


def test_the_minimum_of_a_quadratic_is_found_in_every_array() -> None:
    def loss(arrays: Arrays) -> tuple[float, Arrays]:
        gaps = {"a": arrays["a"] - 2.0, "b": arrays["b"] + np.arange(6.0).reshape(2, 3)}
        return sum(float((g**2).sum()) for g in gaps.values()), {n: 2 * g for n, g in gaps.items()}

    found = minimise({"a": np.zeros(1), "b": np.zeros((2, 3))}, loss)
    np.testing.assert_allclose(found["a"], [2.0], atol=1e-4)
    np.testing.assert_allclose(found["b"], -np.arange(6.0).reshape(2, 3), atol=1e-4)


def test_a_penalised_fit_is_ridge_regression() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 4)), generator.normal(size=50)
    found, penalty = minimise_penalised(
        {"w": np.zeros(4)},
        least_squares(x, y),
        50,
        decayed=("w",),
        penalties=(0.3,),
        seed=0,
    )
    assert penalty == 0.3
    ridge = np.linalg.solve(x.T @ x + 50 * 0.3 * np.eye(4), x.T @ y)
    np.testing.assert_allclose(found["w"], ridge, atol=2e-3)


def test_held_out_rows_choose_little_decay_for_signal_and_much_for_noise() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(60, 30))
    chosen = [
        minimise_penalised(
            {"w": np.zeros(30)},
            least_squares(x, y),
            60,
            decayed=("w",),
            penalties=(1e-4, 10.0),
            seed=0,
        )[1]
        for y in (x @ np.ones(30), generator.normal(size=60))
    ]
    assert chosen == [1e-4, 10.0]


def test_effective_parameters_run_from_all_to_none() -> None:
    x = np.random.default_rng(2).normal(size=(40, 5))
    assert abs(effective_parameters(x, 1e-9) - 5.0) < 1e-6
    assert effective_parameters(x, 1e9) < 1e-5
    hat = x @ np.linalg.inv(x.T @ x + 3.0 * np.eye(5)) @ x.T
    assert abs(effective_parameters(x, 3.0) - np.trace(hat)) < 1e-9


def test_a_fit_is_less_certain_with_more_parameters_and_fewer_outcomes() -> None:
    quality = np.tile([[0.0], [1.0]], (50, 1))
    half = np.full((100, 1), 0.5)
    assert fitted_std(quality, half, 40.0) > fitted_std(quality, half, 4.0)
    fewer = np.where(np.arange(100)[:, None] < 20, quality, np.nan)
    assert fitted_std(fewer, half, 4.0) > fitted_std(quality, half, 4.0)
