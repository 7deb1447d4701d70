"""A plan says who goes where, groups its pairs, and refuses arrays that contradict each other."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wye.core import Plan, PlanError, shared, softmaxed, weigh
from wye.core.arrays import to_numpy

any_array = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    n_sources, n_targets = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    n = draw(st.integers(0, 20))
    source = draw(st.lists(st.integers(0, n_sources - 1), min_size=n, max_size=n))
    target = draw(st.lists(st.integers(0, n_targets - 1), min_size=n, max_size=n))
    weight = draw(st.lists(st.floats(-4, 4, width=32), min_size=n, max_size=n))
    return (
        np.array(source, dtype=np.int64),
        np.array(target, dtype=np.int64),
        np.array(weight, dtype=np.float64),
        n_sources,
        n_targets,
    )


def build(raw: tuple[Any, ...], to_array: Any) -> Plan:
    return Plan(*(to_array(a) for a in raw[:3]), *raw[3:])


@any_array
@given(raw=pairs())
def test_dense_load_and_fan_out_equal_a_loop_over_pairs(raw: Any, to_array: Any) -> None:
    source, target, weight, n_sources, n_targets = raw
    matrix = np.zeros((n_sources, n_targets))
    load, fan_out = [0] * n_targets, [0] * n_sources
    for s, t, w in zip(source, target, weight, strict=True):
        matrix[s, t] += w
        load[t] += 1
        fan_out[s] += 1
    plan = build(raw, to_array).validate()
    np.testing.assert_allclose(to_numpy(plan.dense()), matrix, atol=1e-12)
    assert to_numpy(plan.load()).tolist() == load
    assert to_numpy(plan.fan_out()).tolist() == fan_out


@any_array
@given(raw=pairs())
def test_groups_hold_every_pair_once_in_the_order_of_the_plan(raw: Any, to_array: Any) -> None:
    plan = build(raw, to_array)
    for groups, index, n in (
        (plan.by_target(), raw[1], raw[4]),
        (plan.by_source(), raw[0], raw[3]),
    ):
        order, offsets = to_numpy(groups.order), to_numpy(groups.offsets)
        assert offsets.shape == (n + 1,)
        for g in range(n):
            expected = [i for i, value in enumerate(index) if value == g]
            assert order[offsets[g] : offsets[g + 1]].tolist() == expected


def test_groups_are_right_beyond_the_narrow_sort() -> None:
    target = np.array([40_000, 3, 40_000, 39_999], dtype=np.int64)
    plan = Plan(np.arange(4), target, np.ones(4), 4, 40_001)
    assert plan.by_target().order.tolist() == [1, 3, 0, 2]


def test_choices_by_rows_come_back_flat(to_array: Any) -> None:
    target = np.array([[2, 0], [1, 2]], dtype=np.int64)
    weight = np.array([[0.6, 0.4], [0.3, 0.7]])
    keep = np.array([[True, False], [True, True]])
    plan = Plan.from_rows(to_array(target), to_array(weight), 3)
    assert to_numpy(plan.source).tolist() == [0, 0, 1, 1]
    assert to_numpy(plan.target).tolist() == [2, 0, 1, 2]
    part = Plan.from_rows(to_array(target), to_array(weight), 3, keep=to_array(keep))
    assert to_numpy(part.source).tolist() == [0, 1, 1]
    assert to_numpy(part.weight).tolist() == [0.6, 0.3, 0.7]


@any_array
@given(raw=pairs(), seed=st.integers(0, 99))
def test_weighing_reads_the_gates_at_every_pair(raw: Any, seed: int, to_array: Any) -> None:
    gates = np.random.default_rng(seed).normal(size=raw[3:])
    plan = weigh(build(raw, to_array), to_array(gates))
    expected = [gates[s, t] for s, t in zip(raw[0], raw[1], strict=True)]
    np.testing.assert_array_equal(to_numpy(plan.weight), np.array(expected))


@any_array
@given(raw=pairs())
def test_shares_and_softmax_sum_to_one_for_every_source_with_pairs(raw: Any, to_array: Any) -> None:
    plan = softmaxed(build(raw, to_array))
    sums = to_numpy(plan.dense()).sum(axis=1)
    taken = to_numpy(plan.fan_out()) > 0
    np.testing.assert_allclose(sums, taken.astype(float), atol=1e-9)
    positive = build((*raw[:2], np.abs(raw[2]) + 0.1, *raw[3:]), to_array)
    np.testing.assert_allclose(
        to_numpy(shared(positive).dense()).sum(axis=1), taken.astype(float), atol=1e-9
    )


def test_softmax_of_a_plan_equals_exponentials_by_hand(to_array: Any) -> None:
    weight = np.array([1.0, 2.0, 800.0])
    plan = Plan(
        to_array(np.array([0, 0, 1])), to_array(np.array([0, 1, 1])), to_array(weight), 2, 2
    )
    low = np.exp(1.0) / (np.exp(1.0) + np.exp(2.0))
    np.testing.assert_allclose(to_numpy(softmaxed(plan).weight), [low, 1 - low, 1.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("source", "target", "weight", "sizes", "said"),
    [
        ([0], [0, 1], [1.0], (1, 2), "flat shape"),
        ([[0]], [[0]], [[1.0]], (1, 1), "flat shape"),
        ([0], [0], [1.0], (-1, 2), "counts >= 0"),
        (0, 0, 1.0, (1, 1), "flat shape"),
    ],
)
def test_a_contradiction_is_refused_when_the_plan_is_built(
    source: Any, target: Any, weight: Any, sizes: Any, said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        Plan(np.array(source), np.array(target), np.array(weight), *sizes)


def test_lists_are_refused_by_name() -> None:
    with pytest.raises(PlanError, match="list"):
        Plan([0], np.array([0]), np.ones(1), 1, 1)


def test_narrow_indices_count_and_multiply_without_overflow(to_array: Any) -> None:
    source = to_array(np.array([60_000, 1], dtype=np.int32))
    target = to_array(np.array([49_999, 2], dtype=np.int32))
    plan = Plan(source, target, to_array(np.ones(2)), 60_001, 50_000).validate(distinct=True)
    assert to_numpy(plan.cells()).tolist() == [60_000 * 50_000 + 49_999, 50_002]
    small = Plan(source[1:], target[1:], to_array(np.ones(1)), 3, 4)
    assert to_numpy(small.load()).tolist() == [0, 0, 1, 0]
    assert to_numpy(small.dense())[1, 2] == 1.0
    assert to_numpy(small.by_target().order).tolist() == [0]


def test_different_index_dtypes_are_refused() -> None:
    with pytest.raises(PlanError, match="int32"):
        Plan(np.array([0]), np.array([0], dtype=np.int32), np.ones(1), 1, 1)


@pytest.mark.parametrize(
    ("source", "target", "weight", "said"),
    [
        ([0, 2], [0, 0], [1.0, 1.0], r"source runs from 0 to 2, expected 0 to 1"),
        ([0, 1], [-1, 0], [1.0, 1.0], r"target runs from -1"),
        ([0, 1], [0, 0], [1.0, float("nan")], "NaN"),
        ([0.0, 1.0], [0.0, 0.0], [1.0, 1.0], "integer"),
    ],
)
def test_validate_names_what_is_wrong(
    source: Any, target: Any, weight: Any, said: str, to_array: Any
) -> None:
    plan = Plan(*(to_array(np.array(a)) for a in (source, target, weight)), 2, 1)
    with pytest.raises(PlanError, match=said):
        plan.validate()


def test_a_repeated_pair_is_legal_unless_asked_about() -> None:
    plan = Plan(np.array([0, 0]), np.array([1, 1]), np.array([0.5, 0.25]), 1, 2)
    assert plan.validate().dense().tolist() == [[0.0, 0.75]]
    with pytest.raises(PlanError, match="more than once"):
        plan.validate(distinct=True)


def test_an_empty_plan_has_zero_loads(to_array: Any) -> None:
    none = np.zeros(0, dtype=np.int64)
    plan = Plan(to_array(none), to_array(none), to_array(np.zeros(0)), 0, 3).validate()
    assert len(plan) == 0
    assert to_numpy(plan.load()).tolist() == [0, 0, 0]
    assert to_numpy(plan.by_target().offsets).tolist() == [0, 0, 0, 0]
    assert tuple(plan.dense().shape) == (0, 3)


def test_a_plan_cannot_be_changed() -> None:
    plan = Plan(np.array([0]), np.array([0]), np.ones(1), 1, 1)
    with pytest.raises(AttributeError):
        plan.n_targets = 2  # type: ignore[misc]
