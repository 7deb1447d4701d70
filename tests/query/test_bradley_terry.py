"""Ratings of battles against maximum likelihood by other means, tiers against all partitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize

from wye.query.base import RouterError
from wye.query.learning.bradley_terry import (
    elo,
    fit_bradley_terry,
    optimal_tiers,
    outcome_wins,
    win_probability,
)


def likelihood(theta: np.ndarray, wins: np.ndarray, ridge: float) -> float:
    total = 0.5 * ridge * float(theta @ theta)
    for a in range(len(theta)):
        for b in range(len(theta)):
            if a != b:
                total += wins[a, b] * float(np.log1p(np.exp(theta[b] - theta[a])))
    return total


def test_ratings_maximise_the_likelihood() -> None:
    wins = np.random.default_rng(0).integers(0, 9, (4, 4)).astype(float)
    found = fit_bradley_terry(wins, ridge=0.3)
    best = minimize(likelihood, np.zeros(4), args=(wins, 0.3), tol=1e-12).x
    np.testing.assert_allclose(found, best, atol=1e-5)
    assert found.sum() == pytest.approx(0.0, abs=1e-8)


def test_ratings_equal_the_logistic_regression_of_doubled_battles() -> None:
    """Each battle twice, a tie as a win each way, columns +-ln 10: Elo = 400 coef + 1000."""
    from sklearn.linear_model import LogisticRegression

    quality = np.random.default_rng(1).integers(0, 3, (60, 3)) / 2
    rows, labels = [], []
    for q in quality:
        for a, b in combinations(range(3), 2):
            row = np.zeros(3)
            row[a], row[b] = np.log(10), -np.log(10)
            rows += [row, row]
            labels += [int(q[a] > q[b]), int(q[a] >= q[b])]
    fitted = LogisticRegression(fit_intercept=False, C=1e6, tol=1e-10).fit(rows, labels)
    expected = 400 * fitted.coef_[0] + 1000
    found = elo(fit_bradley_terry(outcome_wins(quality).sum(axis=0).astype(float), ridge=1e-9))
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=0.5)


def test_a_tie_leaves_equals_equal() -> None:
    tie = outcome_wins(np.array([[1.0, 1.0]]))[0].astype(float)
    np.testing.assert_allclose(fit_bradley_terry(tie), 0.0, atol=1e-9)
    wins = np.array([[0.0, 4.0], [1.0, 0.0]])
    apart, with_tie = (np.ptp(fit_bradley_terry(w)) for w in (wins, wins + tie))
    assert 0 < with_tie < apart


def test_separable_battles_have_finite_ratings_in_order() -> None:
    quality = np.tile([0.0, 0.5, 1.0], (50, 1))
    theta = fit_bradley_terry(outcome_wins(quality).sum(axis=0).astype(float))
    assert np.isfinite(theta).all()
    assert (np.diff(theta) > 0).all()


def test_many_weightings_at_once_are_those_one_by_one_from_anywhere() -> None:
    wins = np.random.default_rng(2).random((5, 3, 3)) * 10
    together = fit_bradley_terry(wins, start=np.array([5.0, -3.0, 1.0]))
    for one, theta in zip(wins, together, strict=True):
        np.testing.assert_allclose(fit_bradley_terry(one), theta, atol=1e-7)


def test_win_probability_is_that_of_the_ratings() -> None:
    theta = np.array([0.7, -0.7])
    one, other = elo(theta)
    assert win_probability(one, other) == pytest.approx(1 / (1 + np.exp(-1.4)))
    assert win_probability(one, other) + win_probability(other, one) == pytest.approx(1.0)


def test_battles_are_those_of_a_loop_and_unknown_outcomes_fight_none() -> None:
    generator = np.random.default_rng(3)
    quality = generator.integers(0, 3, (12, 5)) / 2
    quality[generator.random(quality.shape) < 0.3] = np.nan
    group = np.array([0, 1, 1, 2, 0])
    found = outcome_wins(quality, group)
    for q, row in enumerate(quality):
        expected = np.zeros((3, 3))
        for a in range(5):
            for b in range(5):
                if a != b and row[a] >= row[b]:
                    expected[group[a], group[b]] += 1.0 if row[a] > row[b] else 0.5
        np.testing.assert_allclose(found[q], expected)


@pytest.mark.parametrize("n_tiers", [1, 2, 3, 4])
def test_tiers_have_the_least_spread_of_all_partitions(n_tiers: int) -> None:
    ratings = np.random.default_rng(n_tiers).normal(1000, 150, 8)
    ordered = np.sort(ratings)

    def spread(parts: list[np.ndarray]) -> float:
        return sum(float(((p - p.mean()) ** 2).sum()) for p in parts)

    best = min(
        spread(np.split(ordered, list(cuts))) for cuts in combinations(range(1, 8), n_tiers - 1)
    )
    tier = optimal_tiers(ratings, n_tiers)
    assert set(tier) == set(range(n_tiers))
    assert spread([ratings[tier == t] for t in range(n_tiers)]) == pytest.approx(best)
    assert (np.diff(tier[np.argsort(ratings)]) >= 0).all()


def test_with_enough_tiers_each_rating_has_its_own() -> None:
    assert optimal_tiers(np.array([3.0, 1.0, 2.0]), 10).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("wins", "ridge"),
    [(np.zeros((2, 3)), 1.0), (np.full((2, 2), np.nan), 1.0), (np.ones((2, 2)), 0.0)],
)
def test_what_are_no_wins_are_refused(wins: np.ndarray, ridge: float) -> None:
    with pytest.raises(RouterError):
        fit_bradley_terry(wins, ridge=ridge)
