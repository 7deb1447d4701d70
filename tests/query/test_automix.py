"""AutoMix escalates by tables of its own verification, and keeps the one that lifts most."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from wye.query.automix import (
    AutoMix,
    TwoModelOutcomes,
    category_shares,
    double_threshold_tables,
    greedy_tables,
    ibc_lift,
    pomdp_tables,
    threshold_tables,
    verdict_of,
    verification_prompt,
    verify_answer,
)
from wye.query.base import NotFittedError, RouterError
from wye.query.chat_models import ProgramChatModel

K = 4


def outcomes(n: int = 400, seed: int = 0, *, hopeless: float = 0.0) -> TwoModelOutcomes:
    """The lower v, the likelier the small model is wrong; some questions nobody can answer."""
    rng = np.random.default_rng(seed)
    small = (rng.random(n) < 0.6).astype(float)
    value = rng.binomial(K, np.where(small > 0, 0.8, 0.3)) / K
    lost = rng.random(n) < hopeless
    small[lost], value[lost] = 0.0, 0.0
    large = np.where(lost, 0.0, (rng.random(n) < 0.9).astype(float))
    one = np.ones(n)
    return TwoModelOutcomes(value, small, large, 1.2 * one, 20.0 * one, one)


def test_a_threshold_of_one_escalates_everything() -> None:
    table = threshold_tables(K)
    assert table[-1].all()
    data = outcomes()
    quality, cost = data.run(table[-1][np.rint(data.value * K).astype(int)])
    assert quality == data.large.mean()
    assert cost == pytest.approx(21.2)
    for t, row in enumerate(table):
        assert row.tolist() == [b <= t for b in range(K + 1)]


def test_double_thresholds_are_all_intervals() -> None:
    found = {tuple(row) for row in double_threshold_tables(K).tolist()}
    expected = {
        tuple(low <= b <= high for b in range(K + 1))
        for low, high in itertools.combinations(range(K + 1), 2)
    }
    assert found == expected


def test_greedy_opens_one_bin_after_the_other_by_smoothed_gain() -> None:
    bins = np.repeat(np.arange(K + 1), 10)
    gain = np.repeat([0.1, 0.9, 0.8, 0.0, -0.5], 10)
    table = greedy_tables(bins, gain, K)
    assert table.sum(axis=1).tolist() == [1, 2, 3, 4, 5]
    for smaller, larger in itertools.pairwise(table):
        assert (larger >= smaller).all()
    # Smoothing over two bins leaves the lower half ahead of the upper.
    assert not table[2, 4]
    assert not table[2, 3]


def test_pomdp_policies_are_those_of_every_reward() -> None:
    data = outcomes(150, 3, hopeless=0.2)
    bins = np.rint(data.value * K).astype(int)
    shares = category_shares(bins, data.small, data.large, K)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    found = {tuple(row) for row in pomdp_tables(shares).tolist()}
    naive = set()
    for reward in range(5001):
        keep = np.array([-reward, 0, -reward - 1])
        escalate = np.array([-100, -100, -reward - 100])
        naive.add(tuple((shares @ escalate > shares @ keep + 1e-9).tolist()))
    assert found == naive
    assert (False,) * (K + 1) in found


def test_a_bin_that_was_never_seen_keeps() -> None:
    shares = category_shares(np.array([0, 0]), np.zeros(2), np.ones(2), K)
    assert shares[0].tolist() == [1.0, 0.0, 0.0]
    assert not pomdp_tables(shares)[:, 1:].any()
    # At a reward of 101 the needy are worth the escalation.
    assert pomdp_tables(shares, 101)[:, 0].any()
    assert not pomdp_tables(shares, 100)[:, 0].any()


def test_the_winner_is_the_best_of_all_tables() -> None:
    data = outcomes(hopeless=0.25)
    system = AutoMix(k=K).fit(data)
    bins = np.rint(data.value * K).astype(int)
    every = [
        (data.lift(np.array(table)[bins]), kind)
        for kind, tables in AutoMix(k=K).tables(data).items()
        for table in tables
    ]
    assert system.lift_ == max(every)[0] > 0
    # Lowest v is hopeless here, so an interval beats every threshold.
    only = AutoMix(k=K, meta_verifiers=["threshold"]).fit(data)
    assert not system.table_[0]
    assert system.lift_ > only.lift_
    np.testing.assert_array_equal(system.escalate(data.value), system.table_[bins])


def test_a_policy_can_be_held_to_a_range_of_cost() -> None:
    data = outcomes()
    system = AutoMix(k=K, cost_range=(12.0, 18.0)).fit(data)
    assert 12.0 <= data.run(system.escalate(data.value))[1] <= 18.0
    with pytest.raises(RouterError, match="within cost_range"):
        AutoMix(k=K, cost_range=(500.0, 600.0)).fit(data)


@pytest.mark.parametrize("high", [None, math.inf])
def test_a_range_of_cost_without_a_high_end_can_be_saved(
    high: float | None, tmp_path: Path
) -> None:
    system = AutoMix(k=K, cost_range=(12.0, high)).fit(outcomes())
    again = AutoMix.load(system.save(tmp_path / "automix"))
    assert again.cost_range == (12.0, None)
    np.testing.assert_array_equal(again.table_, system.table_)


@pytest.mark.parametrize("wrong", [(2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0)])
def test_a_range_of_cost_that_is_none_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(RouterError, match="cost_range is"):
        AutoMix(k=K, cost_range=wrong)


def test_lift_counts_what_verification_costs() -> None:
    data = outcomes()
    nobody, everybody = np.zeros(400, bool), np.ones(400, bool)
    assert data.lift(nobody) == -1.0
    assert ibc_lift(0.0, 0.0, 0.5) == -np.inf
    gain = data.large.mean() - data.small.mean()
    assert data.lift(everybody) == pytest.approx((gain / 20.2) / (gain / 19.0) - 1)
    assert data.lift(everybody) < 0
    assert ibc_lift(1.0, 2.0, 0.5) == 0.0


def test_what_cannot_be_mixed_is_refused() -> None:
    data = outcomes()
    with pytest.raises(RouterError, match="not among"):
        AutoMix(k=3).fit(data)
    with pytest.raises(RouterError, match="nothing to escalate for"):
        AutoMix(k=K).fit(
            TwoModelOutcomes(
                data.value, data.large, data.small, data.small_cost, data.large_cost, data.bare_cost
            )
        )
    with pytest.raises(RouterError, match="finite"):
        TwoModelOutcomes(*[np.array([np.nan])] * 6)
    with pytest.raises(RouterError, match="shapes"):
        TwoModelOutcomes(*[np.ones(2)] * 5, np.ones(3))
    with pytest.raises(RouterError, match="some of"):
        AutoMix(meta_verifiers=["triple"])  # type: ignore[list-item]
    with pytest.raises(NotFittedError, match="call fit"):
        AutoMix().escalate(np.ones(1))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (" correct.", True),
        ("Incorrect", False),
        ("not correct; the context says 12", False),
        ("Wrong, the correct answer is 12", False),
        ("Yes", True),
        ("", False),
    ],
)
def test_the_first_verdict_counts(text: str, verdict: bool) -> None:
    assert verdict_of(text) is verdict


def test_a_model_verifies_itself_and_hands_on_what_it_doubts() -> None:
    prompt = verification_prompt("2 + 2?", "5", "Arithmetic.")
    assert prompt.endswith("Context: Arithmetic.\nQuestion: 2 + 2?\nAnswer: 5\nThe answer is")
    assert prompt.count("The answer is correct.") == prompt.count("The answer is incorrect.") == 2
    said = itertools.cycle([" correct.", " incorrect."])

    def small_says(messages):  # type: ignore[no-untyped-def]
        content = messages[-1]["content"]
        if not content.startswith("Say of each answer"):
            return "5" if "doubt" in content else "4"
        return next(said) if "doubt" in content else " correct."

    small = ProgramChatModel("small", small_says, price_out_per_mtok=1e6)
    large = ProgramChatModel("large", lambda m: "6")
    found = verify_answer(small, "some doubt", "5", k=K)
    assert (found.value, found.cost_usd) == (0.5, 4.0)
    system = AutoMix(k=K).fit(outcomes())
    system.table_ = threshold_tables(K)[2]
    sure, verified = system.answer("2 + 2?", small, large)
    assert (sure.text, verified.value) == ("4", 1.0)
    doubted, verified = system.answer("some doubt", small, large, context="Arithmetic.")
    assert (doubted.text, verified.value) == ("6", 0.5)
    with pytest.raises(RouterError, match="k=0"):
        verify_answer(small, "q", "a", k=0)
