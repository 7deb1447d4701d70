"""Off-policy estimates: exact on small cases, right on average and as often as they promise."""

import json
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from wye.data import load_embedded
from wye.query import get_router
from wye.query.off_policy import (
    Estimated,
    Logged,
    OffPolicyError,
    cross_fitted_direct,
    difference,
    doubly_robust,
    effective_size,
    evaluate,
    implied_size,
    ips,
    snips,
    supported_share,
)

Floats = NDArray[np.float64]
# Four decisions between two models, drawn by a coin of 0.8; worked out by hand below.
LOG = Logged.of([0, 0, 1, 0], [0.8, 0.8, 0.2, 0.8], [[0.8, 0.2]] * 4)
SECOND = np.array([[0.0, 1.0]] * 4)
OUTCOME = np.array([1.0, 0.0, 0.6, 0.5])


def one_hot(target: NDArray[np.intp], n_models: int) -> Floats:
    return np.eye(n_models)[target]


def test_estimates_worked_out_by_hand() -> None:
    direct = np.array([[0.5, 0.4]] * 4)
    # Only the third decision agrees, with weight 1 / 0.2 = 5.
    assert float(ips(LOG, SECOND, OUTCOME).value) == pytest.approx(5 * 0.6 / 4)
    assert float(snips(LOG, SECOND, OUTCOME).value) == pytest.approx(0.6)
    robust = 0.4 + 5 * (0.6 - 0.4) / 4
    assert float(doubly_robust(LOG, SECOND, OUTCOME, direct).value) == pytest.approx(robust)
    # Less the doubly robust value of the logged policy itself: 0.48 + the mean residual.
    own = 0.8 * 0.5 + 0.2 * 0.4 + (0.5 - 0.5 + 0.2 + 0.0) / 4
    assert float(difference(LOG, SECOND, OUTCOME, direct).value) == pytest.approx(robust - own)
    assert float(ips(LOG, SECOND, OUTCOME, max_weight=2.0).value) == pytest.approx(2 * 0.6 / 4)


def test_sizes_worked_out_by_hand() -> None:
    assert float(effective_size(np.array([3.0, 1.0]))) == pytest.approx(16 / 10)
    assert float(effective_size(np.zeros(3))) == 0.0
    # E w = 1, E w^2 = 0.2 * 25 = 5 for every decision.
    assert float(implied_size(LOG, SECOND)) == pytest.approx(4 / 5)


def test_the_interval_takes_what_the_law_implies_where_the_sample_hides_it() -> None:
    # The policy's model was never drawn, so every score is 0 and the sample has no spread at all.
    log = Logged.of([0] * 5, [0.8] * 5, [[0.8, 0.2]] * 5)
    found = ips(log, np.array([[0.0, 1.0]] * 5), np.ones(5))
    # Variance 0.2 * 25 * E[1] = 5; one effective row leaves one degree of freedom.
    reach = stats.t.ppf(0.975, 1) * np.sqrt(5.0 / 5)
    assert float(found.high) == pytest.approx(reach)


def test_the_logged_policy_itself_is_worth_its_own_mean() -> None:
    assert LOG.law is not None
    found = evaluate(LOG, LOG.law, OUTCOME, direct=np.full((4, 2), 0.3))
    assert float(found.snips.value) == OUTCOME.mean() == float(found.logged.value)
    assert float(found.ips.value) == OUTCOME.mean()
    assert float(found.difference.value) == 0.0
    assert found.effective == found.implied == 4.0


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.05, 1.0), st.floats(0.0, 1.0)),
        min_size=2,
        max_size=30,
    ),
    st.floats(0.1, 10.0),
    st.floats(-5.0, 5.0),
)
def test_snips_moves_with_the_outcomes_and_lies_within_them(
    rows: list[tuple[int, float, float]], scale: float, shift: float
) -> None:
    chosen, propensity, outcome = map(np.array, zip(*rows, strict=True))
    log = Logged.of(chosen, propensity)
    target = np.full((len(rows), 3), 1 / 3)
    plain = float(snips(log, target, outcome).value)
    assert outcome.min() - 1e-9 <= plain <= outcome.max() + 1e-9
    moved = float(snips(log, target, scale * outcome + shift).value)
    assert moved == pytest.approx(scale * plain + shift, abs=1e-8)
    # A common factor in all propensities scales IPS and the weights, and leaves SNIPS as it is.
    halved = Logged.of(chosen, propensity / 2)
    assert float(snips(halved, target, outcome).value) == pytest.approx(plain)
    twice = 2 * float(ips(log, target, outcome).value)
    assert float(ips(halved, target, outcome).value) == pytest.approx(twice)


@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=30), st.floats(0.01, 100.0))
def test_the_effective_size_knows_no_scale_and_no_more_than_the_rows(
    weight: list[float], scale: float
) -> None:
    w = np.array(weight)
    size = float(effective_size(w))
    assert size <= len(w) + 1e-6
    if w.max() > 1e-3:
        assert size >= 1.0 - 1e-9
        assert float(effective_size(scale * w)) == pytest.approx(size)


@pytest.mark.parametrize(
    ("propensity", "words"),
    [(np.nan, "missing"), (0.0, "0 or less"), (-0.1, "0 or less"), (1.5, "above 1")],
)
def test_a_propensity_that_cannot_be_is_refused(propensity: float, words: str) -> None:
    with pytest.raises(OffPolicyError, match=f"1 of 2 propensities are {words}"):
        Logged.of([0, 1], [0.5, propensity])


def test_a_propensity_of_another_choice_is_refused() -> None:
    with pytest.raises(OffPolicyError, match="not those of the choice that was made"):
        Logged.of([0, 1], [0.8, 0.8], [[0.8, 0.2]] * 2)


def test_propensities_that_the_choices_belie_are_refused() -> None:
    rng = np.random.default_rng(0)
    chosen = (rng.random(500) < 0.5).astype(int)
    with pytest.raises(
        OffPolicyError, match="column 0 was chosen 277 times, where they lead to expect 450"
    ):
        Logged.of(chosen, np.where(chosen, 0.1, 0.9), [[0.9, 0.1]] * 500)
    blind = Logged.of(chosen, np.where(chosen, 0.1, 0.9))
    with pytest.raises(OffPolicyError, match="the weights average"):
        evaluate(blind, one_hot(np.ones(500, int), 2), np.ones(500))


def test_a_policy_that_the_log_never_tried_is_refused_with_its_share() -> None:
    certain = Logged.of([0] * 10, [1.0] * 10)
    target = one_hot(np.array([0] * 6 + [1] * 4), 2)
    assert float(supported_share(certain, target)) == pytest.approx(0.6)
    with pytest.raises(OffPolicyError, match=r"40% of the policy's choices.*never drew"):
        evaluate(certain, target, np.ones(10))
    found = evaluate(certain, target, np.ones(10), most_unsupported=0.5)
    assert any("40%" in warning for warning in found.warnings)
    # What was never tried can be worth anything within the bounds.
    bounded = evaluate(
        certain, target, np.tile([0.4, 0.6], 5), bounds=(0.0, 1.0), most_unsupported=0.5
    )
    assert float(bounded.snips.low) < float(bounded.snips.value) - 0.4
    law = np.array([[0.5, 0.5, 0.0]] * 10)
    with pytest.raises(OffPolicyError, match="gave them no chance"):
        evaluate(Logged.of([0, 1] * 5, [0.5] * 10, law), one_hot(np.full(10, 2), 3), np.ones(10))


def test_what_weakens_the_figures_is_said() -> None:
    found = evaluate(LOG, SECOND, OUTCOME, max_weight=2.0)
    assert any("effective sample" in warning for warning in found.warnings)
    assert any("capped at 2" in warning and "biased" in warning for warning in found.warnings)
    blind = evaluate(Logged.of(LOG.chosen, LOG.propensity), SECOND, OUTCOME)
    assert any("rest on the sample alone" in warning for warning in blind.warnings)


@pytest.mark.parametrize(
    ("target", "outcome", "words"),
    [
        (np.array([[0.5, 0.5]] * 3), OUTCOME, "shape"),
        (np.array([[0.7, 0.7]] * 4), OUTCOME, "add up to 1"),
        (np.array([[0.2, 0.2]] * 4), OUTCOME, "abstain on 4 of 4"),
        (SECOND, np.array([1.0, np.nan, 0.0, 0.0]), "1 of 4 outcomes are unknown"),
        (SECOND, OUTCOME[:3], "outcome has shape"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(target: Floats, outcome: Floats, words: str) -> None:
    with pytest.raises(OffPolicyError, match=words):
        evaluate(LOG, target, outcome)


def test_an_evaluation_is_json() -> None:
    told = json.loads(json.dumps(evaluate(LOG, SECOND, np.ones(4)).to_dict(), allow_nan=False))
    assert told["doubly_robust"] is None
    assert told["logged"] == {"value": 1.0, "low": None, "high": None}


def test_no_outcome_has_a_part_in_what_it_is_compared_with() -> None:
    rng = np.random.default_rng(3)
    estimate, chosen = rng.random((60, 3)), rng.integers(3, size=60)
    estimate[:, 2] = np.nan
    outcome, parts = rng.random(60), rng.integers(4, size=60)
    made = cross_fitted_direct(estimate, chosen, outcome, parts)
    assert np.isfinite(made).all()
    for row in range(60):
        changed = outcome.copy()
        changed[row] += 1.0
        again = cross_fitted_direct(estimate, chosen, changed, parts)
        assert (again[parts == parts[row]] == made[parts == parts[row]]).all()
        assert not np.array_equal(again, made)
    with pytest.raises(OffPolicyError, match="one fold"):
        cross_fitted_direct(estimate, chosen, outcome, np.zeros(60, int))


# Against the truth: in the embedded set every model answered every question, so the value of every
# policy is known. Questions are drawn with replacement, models by the logged policy.


@lru_cache(maxsize=1)
def world() -> dict[str, Floats]:
    data = load_embedded().split(test_share=0.5, seed=0)
    learn, test = data.part("train"), data.part("test")
    estimate = get_router("linear", embedder="static").fit(learn).estimate(test.texts)
    quality, cost = estimate.quality, estimate.cost
    m = quality.shape[1]
    greedy = one_hot((quality - 3000.0 * cost).argmax(axis=1), m)
    soft = np.exp(quality / 0.1)
    return {
        "epsilon-greedy": 0.7 * greedy + 0.3 / m,
        "softmax": soft / soft.sum(axis=1, keepdims=True),
        "best": one_hot(quality.argmax(axis=1), m),
        "cheap": one_hot((quality - 1e4 * cost).argmax(axis=1), m),
        "quality": test.quality,
        "quality guess": quality,
        "cost": 1e3 * test.cost,
        "cost guess": 1e3 * cost,
    }


def simulate(
    logging: str, policy: str, figure: str, rows: int, times: int, seed: int
) -> tuple[Logged, Floats, Floats, Floats, float]:
    """Logs `[times, rows]`, the policy's probabilities, outcomes, direct method and true value."""
    known = world()
    law, target, truth = known[logging], known[policy], known[figure]
    rng = np.random.default_rng(seed)
    asked = rng.integers(len(law), size=(times, rows))
    draws = rng.random((times, rows, 1))
    chosen = np.minimum((draws > law[asked].cumsum(axis=-1)).sum(axis=-1), law.shape[1] - 1)
    log = Logged(chosen, law[asked, chosen], law[asked])
    value = float((target * truth).sum(axis=1).mean())
    return log, target[asked], truth[asked, chosen], known[f"{figure} guess"][asked], value


def covered(found: Estimated, value: float) -> int:
    return int(((found.low <= value) & (value <= found.high)).sum())


@pytest.mark.parametrize("figure", ["quality", "cost"])
@pytest.mark.parametrize("policy", ["best", "cheap"])
@pytest.mark.parametrize("logging", ["epsilon-greedy", "softmax"])
def test_intervals_hold_the_truth_as_often_as_they_promise(
    logging: str, policy: str, figure: str
) -> None:
    times, level = 500, 0.9
    log, target, outcome, direct, value = simulate(logging, policy, figure, 600, times, seed=1)
    found = {
        "ips": ips(log, target, outcome, level=level),
        "snips": snips(log, target, outcome, level=level),
        "dr": doubly_robust(log, target, outcome, direct, level=level),
    }
    # Fewer come once in ten thousand where the nominal rate is kept.
    least = stats.binom.ppf(1e-4, times, level)
    for name, estimated in found.items():
        assert covered(estimated, value) >= least, name
        error = estimated.value.std() / np.sqrt(times)
        assert abs(estimated.value.mean() - value) < 5.0 * error + 0.01 * value, name
    assert found["dr"].value.var() <= found["ips"].value.var()


def test_the_difference_to_the_logged_policy_is_covered_too() -> None:
    times = 500
    log, target, outcome, direct, value = simulate(
        "epsilon-greedy", "best", "quality", 600, times, seed=2
    )
    known = world()
    own = float((known["epsilon-greedy"] * known["quality"]).sum(axis=1).mean())
    found = difference(log, target, outcome, direct, level=0.9)
    assert covered(found, value - own) >= stats.binom.ppf(1e-4, times, 0.9)
    assert found.value.var() < doubly_robust(log, target, outcome, direct).value.var()


def test_rare_exploration_is_survived_only_with_the_law() -> None:
    # At most a handful of decisions of 300 tell of the policy's choices, often none.
    known = world()
    greedy = known["epsilon-greedy"].argmax(axis=1)
    law = 0.95 * one_hot(greedy, 6) + 0.05 / 6
    rng = np.random.default_rng(5)
    asked = rng.integers(len(law), size=(500, 300))
    draws = rng.random((500, 300, 1))
    chosen = np.minimum((draws > law[asked].cumsum(axis=-1)).sum(axis=-1), 5)
    target, outcome = known["best"][asked], known["quality"][asked, chosen]
    value = float((known["best"] * known["quality"]).sum(axis=1).mean())
    with_law = ips(Logged(chosen, law[asked, chosen], law[asked]), target, outcome)
    without = ips(Logged(chosen, law[asked, chosen]), target, outcome)
    assert covered(with_law, value) >= stats.binom.ppf(1e-4, 500, 0.95)
    assert covered(without, value) < 0.6 * 500
