"""Deciding on trust: agreement of models, prediction sets, calibration and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from wye.query.answers.voting import vote
from wye.query.chat_models.base import ChatModel, Generation, Message
from wye.query.policies.judging import Answer, ConfidenceJudge
from wye.query.policy import PolicyError
from wye.query.uncertainty.agreement_cascade import AgreementCascade, run_agreement_cascade
from wye.query.uncertainty.calibration import (
    CalibratedJudge,
    auroc,
    calibrate,
    calibration_error,
    threshold_for_accuracy,
    threshold_for_cost,
    threshold_for_share,
)
from wye.query.uncertainty.conformal import ConformalSets, coverage
from wye.query.uncertainty.representations import representation_verify, representation_vote


class Says(ChatModel):
    """A chat model that answers from a list, by the last word it is asked."""

    def __init__(self, name: str, answers: dict[str, str]) -> None:
        self.name, self.answers, self.calls = name, answers, 0

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        self.calls += 1
        return Generation(self.answers[messages[-1]["content"]], 1, 1, "stop", self.name)


def test_a_vote_over_words_and_programs_accepts_from_tau_on() -> None:
    words = [["It is 4.", "4"], ["1", "2"], ["", ""]]
    programs = [["4.0", "5"], ["3", "4"], ["", ""]]
    result = representation_vote(words, programs, tau=0.75)
    assert result.share.tolist() == [0.75, 0.25, 0.0]
    assert result.accepted.tolist() == [True, False, False]
    assert result.winner[0] == 0
    assert representation_verify(["4", "5", ""], ["8/2", "6", ""]).tolist() == [True, False, False]
    with pytest.raises(PolicyError, match="as many of each kind"):
        representation_vote([["1"]], [["1", "2"]])


def test_an_agreement_cascade_pays_every_tier_it_asked() -> None:
    cheap = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [-1, -1, -1]])
    dear = np.array([[3], [3], [3], [3]])
    out = run_agreement_cascade([cheap, dear], [np.full(3, 0.1), np.full(1, 5.0)], [0.6])
    assert out.tier.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(out.cost, [0.3, 0.3, 5.3, 5.3])
    np.testing.assert_allclose(out.share, [1.0, 2 / 3, 1.0, 1.0])


def test_at_the_ends_of_tau_a_cascade_is_its_first_tier_or_pays_for_all() -> None:
    rng = np.random.default_rng(0)
    tiers = [rng.integers(0, 3, (50, 3)), rng.integers(0, 3, (50, 2)), rng.integers(0, 3, (50, 1))]
    costs = [np.ones(3), np.full(2, 4.0), np.full(1, 20.0)]
    first = run_agreement_cascade(tiers, costs, [0.0, 0.0])
    assert (first.tier == 0).all()
    np.testing.assert_array_equal(first.member, vote(tiers[0]).winner)
    strict = run_agreement_cascade(tiers, costs, [1.0, 1.0])
    loose = run_agreement_cascade(tiers, costs, [0.6, 1.0])
    assert (strict.tier >= loose.tier).all()
    assert (strict.cost >= loose.cost).all()


def test_a_cascade_of_chat_models_does_what_the_recorded_one_does() -> None:
    questions = {"a": ["4", "4.0", "9"], "b": ["1", "2", "7"]}
    models = [
        Says(name, {q: said[k] for q, said in questions.items()})
        for k, name in enumerate(("x", "y", "strong"))
    ]
    cascade = AgreementCascade([models[:2], models[2:]], [1.0], kind="number")
    easy, hard = (cascade.answer([{"role": "user", "content": q}]) for q in questions)
    assert (easy.tier, easy.generation.text, len(easy.calls)) == (0, "4", 2)
    assert (hard.tier, hard.generation.text, len(hard.calls)) == (1, "7", 3)
    assert models[2].calls == 1
    for taus in ([], [0.5, 0.5], [1.5]):
        with pytest.raises(PolicyError, match="taus="):
            AgreementCascade([models[:2], models[2:]], taus)


def _laws(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 0.7), n)
    truth = np.array([rng.choice(4, p=row) for row in p])
    return p, truth


def test_a_conformal_set_grows_as_alpha_falls_and_holds_the_likelier_options() -> None:
    p, truth = _laws(300, 0)
    new, _ = _laws(100, 1)
    before = np.zeros((100, 4), bool)
    for alpha in (0.9, 0.5, 0.3, 0.1, 0.02, 0.001):
        sets = ConformalSets.fit(p, truth, alpha=alpha).sets(new)
        assert (sets | ~before).all()
        least_in = np.where(sets, new, np.inf).min(axis=1)
        most_out = np.where(sets, -np.inf, new).max(axis=1)
        assert (least_in >= most_out).all()
        before = sets
    # ceil(301 x 0.999) is beyond 300 questions: nothing can be promised but everything.
    assert before.all()


def test_the_quantile_is_that_of_the_sheer_definition() -> None:
    for n, alpha in ((19, 0.1), (9, 0.1), (99, 0.3), (50, 0.25)):
        p, truth = _laws(n, n)
        scores = np.sort(1 - p[np.arange(n), truth])
        rank = -(-(n + 1) * round((1 - alpha) * 100) // 100)
        expected = scores[rank - 1] if rank <= n else np.inf
        assert ConformalSets.fit(p, truth, alpha=alpha).quantile == expected


def test_coverage_over_all_orders_of_exchangeable_questions_is_what_was_promised() -> None:
    # Leave-one-out over n + 1 questions without ties is exact: rank / (n + 1) of them are covered.
    p, truth = _laws(20, 5)
    for alpha in (0.1, 0.3, 0.5):
        hits = 0
        for i in range(20):
            rest = np.delete(np.arange(20), i)
            sets = ConformalSets.fit(p[rest], truth[rest], alpha=alpha).sets(p[i : i + 1])
            hits += int(coverage(sets, truth[i : i + 1]))
        assert hits == int(np.ceil(round(20 * (1 - alpha), 9)))


def test_only_a_set_of_one_is_accepted() -> None:
    sets = ConformalSets(0.1, 0.6, 10)
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
    assert sets.accepts(p).tolist() == [True, False, True]
    assert not ConformalSets(0.1, 0.05, 10).accepts(p).any()
    for alpha in (0.0, 1.0):
        with pytest.raises(PolicyError, match="alpha="):
            ConformalSets.fit(p, np.array([0, 1, 0]), alpha=alpha)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(3)
    scores, right = rng.integers(0, 6, 60) / 5, rng.integers(0, 2, 60).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right == 1] for b in scores[right == 0]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs))
    assert auroc(1 - scores, right) == pytest.approx(1 - np.mean(pairs))
    with pytest.raises(PolicyError, match="some of each"):
        auroc(scores, np.ones(60))


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_keeps_the_order_and_lowers_the_error(method: str) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.98, 4000)
    right = (rng.random(4000) < truth).astype(float)
    odds = truth / (1 - truth)
    scores = odds**2.5 / (1 + odds**2.5)
    learned = calibrate(scores[:2000], right[:2000], method)
    mapped = learned.apply(scores[2000:])
    assert (np.diff(mapped[np.argsort(scores[2000:])]) >= 0).all()
    before = calibration_error(scores[2000:], right[2000:])
    assert calibration_error(mapped, right[2000:]) < before / 2
    if method == "temperature":
        assert learned.knots[1] == 0.0
        assert learned.knots[0] == pytest.approx(1 / 2.5, rel=0.1)
    judge = CalibratedJudge(ConfidenceJudge(), learned)
    assert judge.score("q", Answer("m", "a", confidence=0.9)) == pytest.approx(
        float(learned.apply(np.array([0.9]))[0])
    )
    assert judge.score("q", Answer("m", "a")) is None


def test_a_threshold_for_accuracy_keeps_as_much_as_it_may() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.5, 0.4])
    right = np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    cut = threshold_for_accuracy(scores, right, 0.75)
    assert (cut.score, cut.kept, cut.accuracy) == (0.5, 0.8, 0.75)
    assert threshold_for_accuracy(scores, right, 0.9).score == 0.9
    nothing = threshold_for_accuracy(scores, 0 * right, 0.5)
    assert (nothing.score, nothing.kept) == (float("inf"), 0.0)


def test_a_threshold_for_a_cost_escalates_what_the_budget_pays() -> None:
    rng = np.random.default_rng(2)
    scores, right = rng.random(200), rng.integers(0, 2, 200).astype(float)
    cut = threshold_for_cost(scores, right, cost=1.0, escalation=10.0, budget=4.0)
    assert cut.kept == pytest.approx(0.7)
    assert 1.0 + 10.0 * (1 - cut.kept) <= 4.0 + 1e-9
    assert threshold_for_share(scores, right, 0.0).kept == 0.0
    assert threshold_for_share(scores, right, 1.0).kept == 1.0
    with pytest.raises(PolicyError, match=r"budget=0\.5"):
        threshold_for_cost(scores, right, cost=1.0, escalation=10.0, budget=0.5)


def test_scores_outside_zero_and_one_are_refused() -> None:
    with pytest.raises(PolicyError, match="from 0 to 1"):
        calibrate(np.array([1.5]), np.array([1.0]))
    with pytest.raises(PolicyError, match="shape"):
        auroc(np.zeros(3), np.zeros(2))
