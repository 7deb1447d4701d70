"""Merged attention, estimators of gradients through a choice, prices, policy gradient."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.core import (
    DualPrice,
    SelectionError,
    gumbel_noise,
    gumbel_softmax,
    leave_one_out_advantage,
    leave_one_out_loss,
    merge_partial,
    merge_partials,
    straight_through,
    top_k,
)
from wye.core.arrays import kth_largest, log_sum_exp, segment_max, to_numpy


def attend(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    powers = np.exp(scores)
    total = powers.sum(axis=-1)
    return powers @ values / total[..., None], np.log(total)


def test_merged_parts_equal_attention_over_all_keys(to_array: Any) -> None:
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(2, 4, 12)) * 5, rng.normal(size=(2, 12, 3))
    whole, whole_lse = attend(scores, values)
    cuts = [(0, 5), (5, 6), (6, 12)]
    parts = [attend(scores[..., a:b], values[:, a:b]) for a, b in cuts]
    out, lse = merge_partials(
        to_array(np.stack([p[0] for p in parts])), to_array(np.stack([p[1] for p in parts]))
    )
    np.testing.assert_allclose(to_numpy(out), whole, rtol=1e-10)
    np.testing.assert_allclose(to_numpy(lse), whole_lse, rtol=1e-12)
    for order in ((0, 1, 2), (2, 0, 1)):
        step: Any = tuple(map(to_array, parts[order[0]]))
        for i in order[1:]:
            step = merge_partial(*step, *map(to_array, parts[i]))
        np.testing.assert_allclose(to_numpy(step[0]), whole, rtol=1e-10)


def test_a_part_without_keys_changes_nothing_even_when_it_holds_nan(to_array: Any) -> None:
    out, lse = np.array([[1.5, -2.0]]), np.array([0.3])
    empty, never = np.array([[np.nan, np.nan]]), np.array([-np.inf])
    merged, total = merge_partial(*map(to_array, (empty, never, out, lse)))
    np.testing.assert_array_equal(to_numpy(merged), out)
    np.testing.assert_allclose(to_numpy(total), lse, rtol=1e-15)
    nothing, none = merge_partial(*map(to_array, (empty, never, empty, never)))
    assert to_numpy(nothing).tolist() == [[0.0, 0.0]]
    assert to_numpy(none).tolist() == [-np.inf]


def test_merging_survives_scores_that_overflow(to_array: Any) -> None:
    out = np.array([[[1.0]], [[3.0]]])
    merged, lse = merge_partials(to_array(out), to_array(np.array([[1e4], [1e4]])))
    assert float(to_numpy(merged)[0, 0]) == 2.0
    assert float(to_numpy(lse)[0]) == pytest.approx(1e4 + np.log(2))


def test_parts_of_different_shapes_are_refused() -> None:
    with pytest.raises(SelectionError, match="at least one part"):
        merge_partials(np.zeros((2, 3, 4)), np.zeros((2, 4)))


def test_log_sum_exp_and_order_statistics_equal_their_definitions(to_array: Any) -> None:
    x = np.random.default_rng(1).normal(size=(5, 7))
    for axis in (0, 1):
        naive = np.log(np.exp(x).sum(axis=axis, keepdims=True))
        np.testing.assert_allclose(to_numpy(log_sum_exp(to_array(x), axis=axis)), naive)
        for k in range(1, x.shape[axis] + 1):
            ranked = np.take(np.sort(x, axis=axis), x.shape[axis] - k, axis=axis)
            assert to_numpy(kth_largest(to_array(x), k, axis=axis)).tolist() == ranked.tolist()
    shut = to_array(np.array([[-np.inf, -np.inf]]))
    assert to_numpy(log_sum_exp(shut, axis=1)).tolist() == [[-np.inf]]


def test_segment_max_of_nothing_is_minus_infinity(to_array: Any) -> None:
    values, groups = to_array(np.array([1.0, 5.0, 2.0])), to_array(np.array([0, 2, 0]))
    assert to_numpy(segment_max(values, groups, 3)).tolist() == [2.0, -np.inf, 5.0]


def test_straight_through_has_the_hard_value(to_array: Any) -> None:
    hard, soft = np.array([[0.0, 1.0]]), np.array([[0.3, 0.7]])
    assert to_numpy(straight_through(to_array(hard), to_array(soft))).tolist() == hard.tolist()
    with pytest.raises(SelectionError, match="expected equal"):
        straight_through(hard, soft[0])


def test_gumbel_noise_has_its_mean_and_variance(to_array: Any) -> None:
    noise = to_numpy(gumbel_noise((40_000,), to_array(np.zeros(1)), 0))
    n = noise.shape[0]
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=5 * np.pi / np.sqrt(6 * n))
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.08)


def test_relaxed_draws_are_rows_that_sum_to_one_and_sharpen(to_array: Any) -> None:
    logits = to_array(np.log(np.broadcast_to([0.2, 0.8], (20_000, 2)).copy()))
    soft = to_numpy(gumbel_softmax(logits, generator=1))
    np.testing.assert_allclose(soft.sum(axis=1), 1.0)
    hard = to_numpy(gumbel_softmax(logits, generator=1, hard=True))
    assert set(np.unique(hard)) <= {0.0, 1.0}
    assert hard.argmax(axis=1).tolist() == soft.argmax(axis=1).tolist()
    assert hard[:, 1].mean() == pytest.approx(0.8, abs=5 * 0.4 / np.sqrt(20_000))


@settings(max_examples=50, deadline=None)
@given(
    reward=st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=5).map(
        np.array
    )
)
def test_every_draw_is_judged_by_the_mean_of_the_others(reward: np.ndarray) -> None:
    naive = [
        [reward[r, s] - np.delete(reward[:, s], r).mean() for s in range(reward.shape[1])]
        for r in range(reward.shape[0])
    ]
    np.testing.assert_allclose(leave_one_out_advantage(reward), naive, atol=1e-9)


def test_the_loss_is_minus_the_mean_of_advantage_times_log_probability(to_array: Any) -> None:
    reward, logged = np.array([[1.0], [0.0]]), np.array([[-0.5], [-2.0]])
    loss = leave_one_out_loss(to_array(logged), to_array(reward))
    assert float(loss) == pytest.approx(-(1.0 * -0.5 + -1.0 * -2.0) / 2)
    with pytest.raises(SelectionError, match="at least 2 draws"):
        leave_one_out_advantage(np.ones((1, 3)))
    with pytest.raises(SelectionError, match=r"one shape \[R, S\]"):
        leave_one_out_loss(np.ones((2, 3)), np.ones((2, 2)))


def test_a_price_rises_with_overspending_and_never_falls_below_zero() -> None:
    price = DualPrice(budget=2.0, learning_rate=0.1)
    assert price.update(0.0) == 0.0
    assert price.update(6.0) == pytest.approx(0.1 * (6 / 2 - 1) / 2)
    assert price.update(2.0) == pytest.approx(0.1)
    assert (price.steps, price.spent) == (3, 8.0)


def test_the_price_does_not_depend_on_the_unit_of_money() -> None:
    costs = np.random.default_rng(0).exponential(size=50)
    dollars, cents = DualPrice(0.8), DualPrice(80.0)
    for c in costs:
        assert cents.update(100 * c) * 100 == pytest.approx(dollars.update(c))


def test_updating_a_batch_at_once_equals_its_steps_where_the_price_stays_positive() -> None:
    single = DualPrice(budget=1.0, price=5.0)
    batch = DualPrice(budget=1.0, price=5.0)
    for c in (0.5, 3.0, 0.0):
        single.update(c)
    assert batch.update(3.5, steps=3) == pytest.approx(single.price)
    assert batch.steps == single.steps


def test_a_stream_is_held_to_its_budget_and_scores_close_to_the_offline_optimum() -> None:
    rng = np.random.default_rng(1)
    n, budget = 20_000, 0.25
    scores, cost = rng.random((n, 4)), rng.random((n, 4))
    price = DualPrice(budget, learning_rate=0.02)
    spent = gained = 0.0
    for s in range(n):
        t = int(top_k(price.adjusted(scores[s : s + 1], cost[s : s + 1])).target[0])
        spent, gained = spent + cost[s, t], gained + scores[s, t]
        price.update(cost[s, t])
    assert spent == pytest.approx(price.spent)
    assert spent / n == pytest.approx(budget, rel=0.02)
    from wye.core import solve_budget

    assert gained >= 0.98 * solve_budget(scores, cost, budget * n).score


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": 0.0}, "budget is 0.0"),
        ({"budget": 1.0, "learning_rate": float("inf")}, "learning_rate is inf"),
        ({"budget": 1.0, "price": -1.0}, "price is -1.0"),
    ],
)
def test_prices_that_cannot_be_are_refused(arguments: Any, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        DualPrice(**arguments)


def test_costs_that_cannot_be_are_refused() -> None:
    price = DualPrice(1.0)
    for cost, options in (
        (-1.0, {}),
        (float("nan"), {}),
        (1.0, {"steps": 0}),
        (1.0, {"budget": 0}),
    ):
        with pytest.raises(SelectionError, match="expected"):
            price.update(cost, **options)
    assert (price.price, price.steps) == (0.0, 0)


def test_a_changed_budget_paces_what_is_left() -> None:
    price = DualPrice(budget=1.0, price=2.0, learning_rate=0.1)
    price.update(0.25, budget=0.5)
    assert price.price == pytest.approx((2.0 * 0.5 + 0.1 * (0.25 / 0.5 - 1)) / 0.5)
