"""Bandits learn what they are shown: exact means, exact inverses, exact probabilities."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from wye.core.bandits import (
    Bandit,
    BanditError,
    ContextualEpsilonGreedy,
    EpsilonGreedy,
    GradientBandit,
    LinearEpsilonGreedy,
    LinearThompson,
    LinUCB,
    RidgeArms,
    ValueLearning,
    dependent_rounding,
    rounding_law,
)

MAKERS: dict[str, Callable[[int], Bandit]] = {
    "linucb": lambda m: LinUCB(m, 3),
    "thompson": lambda m: LinearThompson(m, 3),
    "linear epsilon": lambda m: LinearEpsilonGreedy(m, 3),
    "contextual epsilon": lambda m: ContextualEpsilonGreedy(m, 3),
    "epsilon": lambda m: EpsilonGreedy(m, 3),
    "values": ValueLearning,
    "gradient": GradientBandit,
}
each_bandit = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def taught(make: Callable[[int], Bandit], n_arms: int = 4, steps: int = 60) -> Bandit:
    bandit, generator = make(n_arms), np.random.default_rng(0)
    for _ in range(steps):
        x = np.eye(3)[generator.integers(3)]
        arm = bandit.pick(x, generator).arm
        bandit.learn(arm, x[None], np.array([generator.random() + 0.1 * arm]))
    return bandit


def test_linucb_without_prior_and_bonus_is_the_mean_of_each_context() -> None:
    generator = np.random.default_rng(1)
    bandit = LinUCB(3, 4, alpha=0.0, reg=1e-7, refresh_every=7)
    seen: dict[tuple[int, int], list[float]] = {}
    for _ in range(400):
        context, arm, reward = (*generator.integers([4, 3]).tolist(), generator.random())
        bandit.learn(arm, np.eye(4)[[context]], np.array([reward]))
        seen.setdefault((context, arm), []).append(reward)
    for context in range(4):
        score = bandit.pick(np.eye(4)[context], generator).score
        means = [np.mean(seen[context, arm]) for arm in range(3)]
        np.testing.assert_allclose(score, means, atol=1e-6)


def test_the_inverse_stays_exact_over_a_thousand_updates() -> None:
    generator = np.random.default_rng(2)
    arms = RidgeArms(2, 6, reg=0.05, refresh_every=10_000)
    rows = generator.normal(size=(1000, 6))
    for row in rows:
        arms.learn(1, row[None], np.array([row.sum()]))
    exact = np.linalg.inv(0.05 * np.eye(6) + rows.T @ rows)
    assert np.abs(arms.inverse[1] - exact).max() < 1e-8
    np.testing.assert_allclose(
        arms.spread(rows[:3])[:, 1] ** 2, np.diag(rows[:3] @ exact @ rows[:3].T)
    )


def test_learning_at_once_and_one_by_one_are_the_same() -> None:
    generator = np.random.default_rng(3)
    rows, rewards = generator.normal(size=(50, 3)), generator.random(50)
    whole, single = RidgeArms(1, 3), RidgeArms(1, 3, refresh_every=13)
    whole.learn(0, rows, rewards)
    for row, reward in zip(rows, rewards, strict=True):
        single.learn(0, row[None], np.array([reward]))
    np.testing.assert_allclose(whole.theta, single.theta, atol=1e-9)
    np.testing.assert_allclose(
        whole.mean(rows)[:, 0], rows @ np.linalg.solve(np.eye(3) + rows.T @ rows, rows.T @ rewards)
    )


def test_identical_arms_go_to_the_first() -> None:
    bandit = LinUCB(4, 2, alpha=0.0)
    for arm in range(4):
        bandit.learn(arm, np.ones((1, 2)), np.array([0.3]))
    pick = bandit.pick(np.ones(2), np.random.default_rng(0))
    assert (pick.arm, pick.propensity) == (0, 1.0)
    allowed = np.array([False, False, True, True])
    assert bandit.pick(np.ones(2), np.random.default_rng(0), allowed).arm == 2


@each_bandit
def test_a_removed_arm_is_gone_and_a_new_one_is_tried(make: Callable[[int], Bandit]) -> None:
    bandit, generator = taught(make), np.random.default_rng(4)
    state = bandit.get_state()
    bandit.remove_arm(1)
    assert bandit.n_arms == 3
    assert bandit.add_arm() == 3
    # Arms 0, 2 and 3 keep what they learned, in their new places.
    again = make(4)
    again.set_state(state)
    x = np.eye(3)[0]
    kept, before = bandit.pick(x, generator).score, again.pick(x, generator).score
    if not isinstance(bandit, LinearThompson):
        np.testing.assert_allclose(kept[:3], before[[0, 2, 3]])
    arms = set()
    for _ in range(400):
        arm = bandit.pick(x, generator).arm
        arms.add(arm)
        bandit.learn(arm, x[None], np.array([1.0 if arm == 3 else 0.2]))
    assert 3 in arms
    assert arms <= {0, 1, 2, 3}


@each_bandit
def test_the_last_arm_stays_and_an_arm_not_allowed_is_never_picked(
    make: Callable[[int], Bandit],
) -> None:
    with pytest.raises(BanditError, match="last arm"):
        make(1).remove_arm(0)
    bandit, generator = taught(make), np.random.default_rng(5)
    allowed = np.array([True, False, True, False])
    assert {bandit.pick(np.eye(3)[0], generator, allowed).arm for _ in range(60)} <= {0, 2}
    with pytest.raises(BanditError, match="no arm is allowed"):
        bandit.pick(np.eye(3)[0], generator, np.zeros(4, bool))


@each_bandit
def test_a_restored_bandit_decides_alike(make: Callable[[int], Bandit]) -> None:
    bandit = taught(make)
    other = make(4)
    other.set_state(bandit.get_state())
    one, two = np.random.default_rng(6), np.random.default_rng(6)
    for step in range(40):
        x = np.eye(3)[step % 3]
        a, b = bandit.pick(x, one), other.pick(x, two)
        assert (a.arm, a.propensity) == (b.arm, b.propensity)
        for each in (bandit, other):
            each.learn(a.arm, x[None], np.array([0.1 * a.arm]))


@each_bandit
def test_propensities_are_the_shares_of_picks(make: Callable[[int], Bandit]) -> None:
    bandit, generator = taught(make, n_arms=3), np.random.default_rng(7)
    bandit.skip(10_000)  # The share of random picks is at its floor and stays.
    picks = [bandit.pick(np.eye(3)[1], generator) for _ in range(3000)]
    count = np.bincount([p.arm for p in picks], minlength=3) / len(picks)
    chance = {p.arm: p.propensity for p in picks}
    assert sum(chance.values()) == pytest.approx(1.0, abs=0.02)
    for arm, share in chance.items():
        assert count[arm] == pytest.approx(
            share, abs=4 * np.sqrt(share * (1 - share) / 3000) + 1e-3
        )


def test_thompson_draws_from_the_posterior_of_bayesian_regression() -> None:
    generator = np.random.default_rng(8)
    rows, rewards = generator.normal(size=(20, 3)), generator.random(20)
    bandit = LinearThompson(1, 3, sigma=0.25, prior_var=2.0)
    bandit.learn(0, rows, rewards)
    precision = np.eye(3) / 2.0 + rows.T @ rows / 0.25**2
    x = generator.normal(size=3)
    mean = x @ np.linalg.solve(precision, rows.T @ rewards / 0.25**2)
    deviation = np.sqrt(x @ np.linalg.solve(precision, x))
    drawn = [bandit.pick(x, generator).score[0] for _ in range(3000)]
    assert np.mean(drawn) == pytest.approx(mean, abs=4 * deviation / np.sqrt(3000))
    assert np.std(drawn) == pytest.approx(deviation, rel=0.06)


def test_a_context_has_its_own_mean_and_else_that_of_the_arm() -> None:
    bandit = ContextualEpsilonGreedy(2, 2, epsilon=0.0, floor=0.0)
    here, there, new = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0])
    bandit.learn(0, np.stack([here, there]), np.array([1.0, 0.0]))
    bandit.learn(1, np.stack([there]), np.array([0.4]))
    assert bandit.values(here).tolist() == [1.0, 0.4]
    assert bandit.values(there).tolist() == [0.0, 0.4]
    assert bandit.values(new).tolist() == [0.5, 0.4]


def test_values_forget_and_the_gradient_follows_reward() -> None:
    values = ValueLearning(2, rate=0.5)
    values.learn(0, np.ones((3, 1)), np.array([1.0, 1.0, 0.0]))
    assert values.value.tolist() == [0.375, 0.0]
    gradient = GradientBandit(2, rate=0.5)
    gradient.learn(0, np.ones((1, 1)), np.array([0.5]))
    assert gradient.preference.tolist() == [0.0, 0.0]
    gradient.learn(1, np.ones((1, 1)), np.array([1.0]))
    np.testing.assert_allclose(gradient.preference, [-0.125, 0.125])


def test_rounding_keeps_every_share_and_the_size() -> None:
    shares = np.array([0.2, 1.0, 0.7, 0.0, 0.6, 0.3])
    law = rounding_law(shares)
    assert sum(law.values()) == pytest.approx(1.0)
    for m, share in enumerate(shares):
        assert sum(p for members, p in law.items() if m in members) == pytest.approx(share)
    assert {len(members) for members in law} == {2, 3}
    generator = np.random.default_rng(9)
    drawn = [
        tuple(np.flatnonzero(dependent_rounding(shares, generator)).tolist()) for _ in range(2000)
    ]
    assert set(drawn) <= set(law)
    for members, chance in law.items():
        assert drawn.count(members) / 2000 == pytest.approx(chance, abs=4 * np.sqrt(chance / 2000))


def test_whole_shares_are_the_set_itself() -> None:
    for bits in product([0.0, 1.0], repeat=3):
        drawn = dependent_rounding(np.array(bits), np.random.default_rng(0))
        assert drawn.tolist() == [b == 1.0 for b in bits]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: LinUCB(0, 2), "n_arms is 0"),
        (lambda: LinUCB(2, 2, reg=0.0), "reg is 0"),
        (lambda: LinUCB(2, 2, alpha=float("nan")), "alpha is nan"),
        (lambda: LinUCB(2, 2).learn(5, np.ones((1, 2)), np.ones(1)), "arm 5 does not exist"),
        (lambda: LinUCB(2, 2).learn(0, np.ones((1, 3)), np.ones(1)), r"expected \[N, D=2\]"),
        (lambda: LinUCB(2, 2).learn(0, np.ones((1, 2)), np.array([np.nan])), "must be finite"),
        (lambda: EpsilonGreedy(2, epsilon=1.5), "at most 1"),
        (lambda: ValueLearning(2, rate=2.0), "rate is 2.0"),
        (lambda: dependent_rounding(np.array([1.5]), np.random.default_rng(0)), "from 0 to 1"),
        (lambda: rounding_law(np.full(17, 0.5)), "17 shares are fractional"),
    ],
)
def test_bad_input_is_named(act: Callable[[], object], message: str) -> None:
    with pytest.raises(BanditError, match=message):
        act()


LINEAR = {
    "linucb": lambda: LinUCB(4, 3, alpha=0.4),
    "thompson": lambda: LinearThompson(4, 3, sigma=0.3),
    "epsilon": lambda: LinearEpsilonGreedy(4, 3, epsilon=0.3, decay=1.0, floor=0.3),
}


@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
def test_the_law_is_that_of_the_picks(make: Callable[[], Bandit]) -> None:
    bandit, generator = make(), np.random.default_rng(5)
    for arm in range(4):
        x = generator.normal(size=(6, 3))
        bandit.learn(arm, x, x[:, 0] * 0.2 + 0.1 * arm + generator.normal(size=6) * 0.3)
    x, allowed = np.array([0.5, -0.2, 1.0]), np.array([True, True, False, True])
    law, score = bandit.law(x, allowed)
    assert law.sum() == pytest.approx(1.0)
    assert law[2] == 0.0
    assert score[2] == -np.inf
    draws = 4000
    picks = [bandit.pick(x, generator, allowed).arm for _ in range(draws)]
    shares = np.bincount(picks, minlength=4) / draws
    spread = np.sqrt(law * (1 - law) / draws)
    assert (np.abs(shares - law) <= 4.5 * spread + 1e-9).all()


@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
def test_a_prior_is_added_to_what_was_learned(make: Callable[[], Bandit]) -> None:
    law, score = make().law(np.ones(3), prior=np.array([0.0, 5.0, 1.0, 0.0]))
    assert int(law.argmax()) == int(score.argmax()) == 1


def test_a_corrected_reward_is_as_if_it_had_been_learned_so() -> None:
    generator = np.random.default_rng(3)
    x, rewards = generator.normal(size=(20, 3)), generator.normal(size=20)
    first, second = RidgeArms(2, 3), RidgeArms(2, 3)
    first.learn(1, x, rewards)
    first.correct(1, x[4], 0.7)
    second.learn(1, x, rewards + 0.7 * (np.arange(20) == 4))
    np.testing.assert_allclose(first.theta, second.theta, atol=1e-12)
    np.testing.assert_array_equal(first.count, second.count)
    with pytest.raises(ValueError, match="arm 5 does not exist"):
        first.correct(5, x[0], 0.1)
