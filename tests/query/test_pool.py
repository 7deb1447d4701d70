"""The value of a pool against loops over all its choices."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from wye.query import RouterError
from wye.query.base import Estimate
from wye.query.metrics.curve import quality_at
from wye.query.metrics.resample import Resample
from wye.query.pool import value_pool
from wye.query.pool.value import PoolValue, exact, greedy
from wye.testing.outcomes import routing_data


def made(seed: int, budget: float | None, q: int = 40, m: int = 5) -> PoolValue:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0.5, 1.5, (q, m)) * np.arange(1, m + 1)
    return PoolValue(rng.random((q, m)), cost * 1.1, rng.random((q, m)), cost, budget)


def naive(value: PoolValue, subset: tuple[int, ...]) -> float:
    """Choices one by one, at every weight."""
    points = []
    for score in value.score:
        chosen = [max(subset, key=lambda m: score[i, m]) for i in range(len(score))]
        rows = range(len(score))
        points.append(
            (
                np.mean([value.cost[i, m] for i, m in zip(rows, chosen, strict=True)]),
                np.mean([value.quality[i, m] for i, m in zip(rows, chosen, strict=True)]),
            )
        )
    if value.budget is None:
        return float(points[0][1])
    cost, quality = np.array(points).T
    at = quality_at(cost[None], quality[None], np.array([value.budget]))[0]
    return float(at) if np.isfinite(at) else -np.inf


@pytest.mark.parametrize("budget", [None, 2.0, 1.2])
def test_values_and_the_best_subset_are_those_of_loops(budget: float | None) -> None:
    value = made(0, budget)
    worth = {}
    for size in range(1, 6):
        for subset in combinations(range(5), size):
            worth[subset] = naive(value, subset)
            assert value.of(value.serve(subset)) == pytest.approx(worth[subset])
    for size in (1, 2, 3):
        best = exact(value, size)
        assert worth[best] == max(w for s, w in worth.items() if len(s) == size)


@pytest.mark.parametrize("budget", [None, 2.0])
def test_forward_selection_takes_the_best_next_model(budget: float | None) -> None:
    value = made(1, budget)
    chosen: tuple[int, ...] = ()
    for column, serving in greedy(value, 4):
        tried = {m: naive(value, (*chosen, m)) for m in set(range(5)) - set(chosen)}
        assert tried[column] == max(tried.values())
        chosen = (*chosen, column)
        assert value.of(serving) == pytest.approx(tried[column])


def test_a_budget_below_every_model_has_no_value() -> None:
    value = made(2, 0.01)
    assert value.of(value.serve((0, 1))) == -np.inf
    assert np.isnan(value.on_draws(value.serve((0, 1)), Resample(40, 3))).all()
    assert next(iter(greedy(value, 1)))[0] == 0


def test_values_on_draws_are_those_of_the_drawn_queries() -> None:
    value = made(3, 2.0)
    draws = Resample(40, 4, seed=1)
    serving = value.serve((0, 2, 4))
    weights = np.concatenate(list(draws.weights()))
    for b, on_draw in enumerate(value.on_draws(serving, draws)):
        rows = np.repeat(np.arange(40), weights[b].astype(int))
        assert value.of(serving, rows) == pytest.approx(on_draw)
        assert value.restricted(rows).of(value.restricted(rows).serve((0, 2, 4))) == pytest.approx(
            on_draw
        )


def known(quality: np.ndarray, cost: np.ndarray, believed: np.ndarray | None = None) -> Estimate:
    expected = quality if believed is None else believed
    zeros = np.zeros_like(quality)
    names = tuple(f"m{k}" for k in range(quality.shape[1]))
    return Estimate(names, expected, zeros, cost, zeros, np.zeros(len(quality)))


def outcomes() -> tuple[np.ndarray, np.ndarray]:
    """m0 and m1 answer one half each, m2 is m0 again for more, m3 is never right."""
    half = np.repeat([1.0, 0.0], 100)
    quality = np.stack([half, 1 - half, half, np.zeros(200)], axis=1)
    return quality, np.broadcast_to([1.0, 1.0, 2.0, 0.5], (200, 4)).copy()


def test_a_twin_is_worth_nothing_and_two_complements_are_enough() -> None:
    quality, cost = outcomes()
    report = value_pool(
        routing_data(quality, cost), estimate=known(quality, cost), router="given", bootstrap=200
    )
    worth = {m.name: m.marginal.value for m in report.models}
    assert worth == pytest.approx({"m1": 0.5, "m0": 0.0, "m2": 0.0, "m3": 0.0})
    assert set(report.enough.models) == {"m0", "m1"}
    assert [len(p.models) for p in report.exact] == [1, 2, 3, 4]
    assert report.exact[1].quality.value == 1.0
    assert report.greedy[1].held_out == pytest.approx(1.0)
    assert report.why_not_exact == ""
    assert "m0, m1 are enough" in report.words
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_model_that_misleads_the_router_has_a_negative_value_that_an_oracle_does_not_see() -> (
    None
):
    quality, cost = outcomes()
    believed = quality.copy()
    believed[:60, 3] = 2.0
    report = value_pool(
        routing_data(quality, cost), estimate=known(quality, cost, believed), bootstrap=200
    )
    (bad,) = (m for m in report.models if m.name == "m3")
    assert bad.marginal.value == pytest.approx(-0.3)
    assert bad.marginal.high < 0
    assert bad.oracle_marginal.value == 0.0


def test_a_budget_counts_what_is_spent() -> None:
    quality, cost = outcomes()
    at_half = value_pool(
        routing_data(quality, cost), estimate=known(quality, cost), budget=0.75, bootstrap=50
    )
    # Half of the queries to a model of cost 1, the rest to the one of 0.5 that is never right.
    assert at_half.whole.value == pytest.approx(0.5, abs=0.01)
    needed = {m.name for m in at_half.models if m.needed}
    assert "m3" in needed


def test_cross_fitted_estimates_find_the_model_that_only_adds_cost() -> None:
    from wye.testing import made_outcomes

    report = value_pool(made_outcomes(240), router="linear", bootstrap=100)
    assert report.models[-1].name == "weak" or report.models[-1].marginal.value <= 0.01
    assert "weak" not in report.enough.models
    assert report.whole.value > report.best_single_quality.value + 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": 1.0, "budget_share": 0.5}, "not both"),
        ({"budget": -1.0}, "more than 0"),
        ({"max_models": 0}, "at least two"),
    ],
)
def test_a_pool_that_cannot_be_valued_is_refused(given: dict[str, float], message: str) -> None:
    quality, cost = outcomes()
    with pytest.raises(RouterError, match=message):
        value_pool(routing_data(quality, cost), estimate=known(quality, cost), **given)  # type: ignore[arg-type]


def test_a_budget_without_costs_is_refused() -> None:
    quality, _ = outcomes()
    unknown = np.full_like(quality, np.nan)
    with pytest.raises(RouterError, match="no costs"):
        value_pool(routing_data(quality), estimate=known(quality, unknown), budget=1.0)
