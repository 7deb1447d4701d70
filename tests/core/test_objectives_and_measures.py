"""Objectives equal their formulas; measures see balance, agreement and drift; traces replay."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from wye.core import (
    Plan,
    PlanTrace,
    SelectionError,
    agreement,
    contrastive,
    divergence,
    drift,
    entropy,
    load_balance,
    load_entropy,
    load_variation,
    max_violation,
    retained_score,
    row_entropy,
    squared_variation,
    starved_share,
    symmetric_divergence,
    top_k,
    z_loss,
)
from wye.core.arrays import to_numpy


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_the_balance_loss_equals_its_formula(to_array: Any) -> None:
    p = softmax(np.random.default_rng(0).normal(size=(30, 5)))
    for k in (1, 2, 5):
        plan = top_k(to_array(p), k)
        phi = [sum(t == i for t in to_numpy(plan.target)) / (30 * k) for i in range(5)]
        expected = 5 * sum(phi[i] * p[:, i].mean() for i in range(5))
        assert float(load_balance(to_array(p), plan)) == pytest.approx(expected)


def test_the_balance_loss_is_one_where_either_side_is_uniform(to_array: Any) -> None:
    flat = np.full((12, 4), 0.25)
    skewed = top_k(to_array(softmax(np.random.default_rng(1).normal(size=(12, 4)) + np.eye(1, 4))))
    assert float(load_balance(to_array(flat), skewed)) == pytest.approx(1.0)
    even = Plan.from_rows(to_array(np.arange(12)[:, None] % 4), to_array(np.ones((12, 1))), 4)
    p = softmax(np.random.default_rng(2).normal(size=(12, 4)))
    assert float(load_balance(to_array(p), even)) == pytest.approx(1.0)


def test_padding_counts_in_no_objective(to_array: Any) -> None:
    logits = np.random.default_rng(3).normal(size=(20, 4))
    counted = np.arange(20) < 13
    padded = logits.copy()
    padded[~counted] = 50.0
    whole, part = to_array(padded), to_array(logits[:13])
    mask = to_array(counted)
    assert float(z_loss(whole, counted=mask)) == pytest.approx(float(z_loss(part)))
    p, q = softmax(padded), softmax(logits[:13])
    assert float(entropy(to_array(p), counted=mask)) == pytest.approx(float(entropy(to_array(q))))
    full = load_balance(to_array(p), top_k(to_array(p), 2), counted=mask)
    assert float(full) == pytest.approx(float(load_balance(to_array(q), top_k(to_array(q), 2))))


def test_the_z_loss_of_zero_logits_is_the_squared_log_of_the_width(to_array: Any) -> None:
    assert float(z_loss(to_array(np.zeros((3, 8))))) == pytest.approx(np.log(8) ** 2)
    assert float(z_loss(to_array(np.full((3, 8), 2.0)))) == pytest.approx((np.log(8) + 2) ** 2)


def test_entropy_is_zero_for_certainty_and_largest_when_uniform(to_array: Any) -> None:
    for order in (0.5, 1.0, 1.5, 2.0):
        sure = to_array(np.array([[1.0, 0.0, 0.0]]))
        assert float(entropy(sure, order=order)) == pytest.approx(0.0, abs=1e-12)
        flat = float(entropy(to_array(np.full((1, 3), 1 / 3)), order=order))
        p = softmax(np.random.default_rng(4).normal(size=(50, 3)))
        assert (to_numpy(row_entropy(to_array(p), order=order)) <= flat + 1e-12).all()


def test_tsallis_entropy_tends_to_shannon_entropy() -> None:
    p = softmax(np.random.default_rng(5).normal(size=(20, 6)))
    shannon = -(p * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(row_entropy(p), shannon)
    np.testing.assert_allclose(row_entropy(p, order=1.0001), shannon, rtol=1e-3)
    np.testing.assert_allclose(row_entropy(p, order=2.0), 1 - (p**2).sum(axis=1))
    with pytest.raises(SelectionError, match="order=0"):
        entropy(p, order=0)


def test_contrast_equals_cross_entropy_of_finding_ones_own(to_array: Any) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    unit_a = a / np.linalg.norm(a, axis=1, keepdims=True)
    unit_b = b / np.linalg.norm(b, axis=1, keepdims=True)
    logits = unit_a @ unit_b.T / 0.2
    naive = -np.mean(np.log(np.diag(softmax(logits))))
    assert float(contrastive(to_array(a), to_array(b), temperature=0.2)) == pytest.approx(naive)
    same = contrastive(to_array(unit_a), to_array(unit_a), temperature=0.01, normalised=True)
    assert float(same) < 0.05


def test_squared_variation_is_zero_for_equal_values(to_array: Any) -> None:
    assert float(squared_variation(to_array(np.full(4, 3.0)))) == 0.0
    assert float(squared_variation(to_array(np.array([1.0, 3.0])))) == pytest.approx(0.25)


def test_objectives_refuse_shapes_that_do_not_match() -> None:
    with pytest.raises(SelectionError, match=r"expected \(2, 3\)"):
        load_balance(np.ones((2, 2)), top_k(np.ones((2, 3))))
    with pytest.raises(SelectionError, match=r"one shape \[S, D\]"):
        contrastive(np.ones((2, 2)), np.ones((3, 2)))


@settings(max_examples=60, deadline=None)
@given(load=st.lists(st.integers(0, 40), min_size=1, max_size=9))
def test_measures_of_load_stay_in_their_ranges(load: list[int]) -> None:
    counts = np.array(load)
    assert 0 <= max_violation(counts) <= len(load) - 1 + 1e-9
    assert -1e-12 <= load_entropy(counts) <= 1 + 1e-12
    if sum(load):
        assert max_violation(counts) == pytest.approx(max(load) / (sum(load) / len(load)) - 1)
        assert load_variation(counts) == pytest.approx(np.std(load) / np.mean(load))


def test_balance_and_collapse_are_the_two_ends(to_array: Any) -> None:
    even, collapsed = to_array(np.array([5, 5, 5, 5])), to_array(np.array([0, 20, 0, 0]))
    assert (max_violation(even), load_variation(even), load_entropy(even)) == (0.0, 0.0, 1.0)
    assert (max_violation(collapsed), load_entropy(collapsed)) == (3.0, 0.0)
    assert (starved_share(even), starved_share(collapsed)) == (0.0, 0.75)


@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=6),
    data=st.data(),
)
def test_agreement_is_the_mean_jaccard_index(first: list[set[int]], data: st.DataObject) -> None:
    second = data.draw(
        st.lists(st.sets(st.integers(0, 4)), min_size=len(first), max_size=len(first))
    )

    def plan(sets: list[set[int]]) -> Plan:
        flat = [(s, t) for s, targets in enumerate(sets) for t in targets]
        source = np.array([s for s, _ in flat], dtype=np.int64)
        target = np.array([t for _, t in flat], dtype=np.int64)
        return Plan(source, target, np.ones(len(flat)), len(sets), 5)

    naive = np.mean(
        [len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(first, second, strict=True)]
    )
    assert agreement(plan(first), plan(second)) == pytest.approx(naive)
    assert agreement(plan(first), plan(first)) == 1.0


def test_drift_equals_the_divergence_of_the_loads(to_array: Any) -> None:
    rng = np.random.default_rng(7)
    before = top_k(to_array(rng.normal(size=(50, 6))))
    after = top_k(to_array(rng.normal(size=(80, 6)) + np.arange(6)))
    loads = to_numpy(before.load()), to_numpy(after.load())
    assert drift(before, after) == pytest.approx(jensenshannon(*loads, base=2) ** 2)
    assert drift(before, before) == 0.0
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == pytest.approx(1.0)


def test_retained_score_is_one_for_the_best_targets(to_array: Any) -> None:
    scores = softmax(np.random.default_rng(8).normal(size=(20, 5)))
    assert retained_score(top_k(to_array(scores), 2), to_array(scores)) == pytest.approx(1.0)
    worst = top_k(to_array(-scores), 2)
    expected = np.sort(scores, axis=1)[:, :2].sum() / np.sort(scores, axis=1)[:, 3:].sum()
    assert retained_score(worst, to_array(scores)) == pytest.approx(expected)


def test_measures_refuse_what_they_cannot_compare() -> None:
    narrow, wide = top_k(np.ones((2, 3))), top_k(np.ones((2, 4)))
    for measure in (agreement, drift):
        with pytest.raises(SelectionError, match="expected the same"):
            measure(narrow, wide)
    with pytest.raises(SelectionError, match="no mass"):
        divergence(np.zeros(2), np.ones(2))
    with pytest.raises(SelectionError, match="counts >= 0"):
        max_violation(np.array([-1, 2]))


def test_a_trace_replays_the_choice_with_other_gates(to_array: Any) -> None:
    rng = np.random.default_rng(9)
    scores, gates = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    trace = PlanTrace()
    plan = top_k(to_array(scores), 2)
    assert trace.record("layer 0", plan) is plan
    replayed = trace.replay("layer 0", 0, to_array(gates)).host()
    np.testing.assert_array_equal(replayed.weight, gates[replayed.source, replayed.target])
    assert agreement(plan, replayed) == 1.0
    assert trace.load("layer 0").tolist() == to_numpy(plan.load()).tolist()


def test_a_trace_survives_its_arrays(to_array: Any) -> None:
    rng = np.random.default_rng(10)
    trace = PlanTrace()
    for step in range(12):
        trace.record("a", top_k(to_array(rng.normal(size=(3, 4))), 2))
        if step % 2:
            trace.record("b", top_k(to_array(rng.normal(size=(2, 5)))))
    back = PlanTrace.from_arrays(trace.arrays())
    assert sorted(back) == ["a", "b"]
    for place in trace:
        assert len(back[place]) == len(trace[place])
        for mine, other in zip(trace[place], back[place], strict=True):
            np.testing.assert_array_equal(to_numpy(mine.dense()), other.dense())


def test_a_trace_refuses_what_it_never_saw() -> None:
    trace = PlanTrace()
    with pytest.raises(SelectionError, match="nothing recorded at 'x', step 0"):
        trace.replay("x", 0, np.ones((1, 1)))
    with pytest.raises(SelectionError, match="contains '/'"):
        trace.record("a/b", top_k(np.ones((1, 1))))
    with pytest.raises(SelectionError, match="no part of a plan trace"):
        PlanTrace.from_arrays({"weights": np.ones(1)})
    with pytest.raises(SelectionError, match="lacks"):
        PlanTrace.from_arrays({"a/0/source": np.zeros(1, dtype=np.int64)})


def test_symmetric_divergence_is_the_mean_of_both_directions(to_array: Any) -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(20, 6)) * 3, rng.normal(size=(20, 6)) * 3
    p, q = softmax(a), softmax(b)
    forth, back = (p * np.log(p / q)).sum(axis=1), (q * np.log(q / p)).sum(axis=1)
    both = float(symmetric_divergence(to_array(a), to_array(b)))
    assert both == pytest.approx(float(((forth + back) / 2).mean()), abs=1e-6)
    assert float(symmetric_divergence(to_array(b), to_array(a))) == pytest.approx(both, abs=1e-12)
    kept = rng.random(20) < 0.5
    some = symmetric_divergence(to_array(a), to_array(b), counted=to_array(kept))
    assert float(some) == pytest.approx(float(((forth + back) / 2)[kept].mean()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    shift=st.floats(-50, 50),
)
def test_symmetric_divergence_is_never_negative_and_zero_for_equal_rows(
    seed: int, scale: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 5)) * scale, rng.normal(size=(4, 5)) * scale
    assert float(symmetric_divergence(a, b)) >= 0
    assert float(symmetric_divergence(a, a + shift)) == pytest.approx(0, abs=1e-9)


def test_symmetric_divergence_survives_what_underflows_and_what_is_closed(to_array: Any) -> None:
    a = np.array([[0.0, -800.0, -np.inf], [0.0, 0.0, -np.inf]])
    b = np.array([[0.0, -790.0, -np.inf], [0.0, 0.0, -np.inf]])
    assert float(symmetric_divergence(to_array(a), to_array(b))) == pytest.approx(0, abs=1e-12)
    with pytest.raises(SelectionError, match="expected one"):
        symmetric_divergence(to_array(a), to_array(b[:1]))
