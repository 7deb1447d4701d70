"""Scores of trust: exact values, their limits, and what each refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest

from wye.query.answers.voting import answer_numbers
from wye.query.base import FloatArray
from wye.query.chat_models.base import ChatModel, Generation, Message, normalised
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError
from wye.query.uncertainty.confidence_token import (
    ConfidenceHead,
    ConfidenceTokenJudge,
    confidence,
    confidence_targets,
)
from wye.query.uncertainty.p_true import PTrueJudge
from wye.query.uncertainty.predictive_entropy import (
    PredictiveEntropyJudge,
    option_certainty,
    sampled_certainty,
)
from wye.query.uncertainty.self_consistency import (
    SelfConsistencyJudge,
    lead_is_sure,
    majority_share,
    sample_until_sure,
    samples_needed,
)
from wye.query.uncertainty.semantic_entropy import (
    SemanticEntropyJudge,
    canonical_classes,
    class_law,
    entailment_classes,
    semantic_certainty,
    semantic_entropy,
)
from wye.query.uncertainty.token_probability import (
    MarginJudge,
    QuantileJudge,
    QuantileModel,
    TokenProbabilityJudge,
    quantile_features,
    token_margin,
    token_probability,
)

SAID = np.log([0.9, 0.5, 0.8])
OTHER = np.log([0.05, 0.4, 0.1])


class KnownLaw(ChatModel):
    """A chat model whose label probabilities follow from what it is shown, by a rule."""

    name = "known-law"

    def __init__(self) -> None:
        self.asked: list[str] = []

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
        return Generation("4", 1, 1, "stop", self.name)

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> FloatArray:
        self.asked.append(messages[-1]["content"])
        true = 0.8 if "answer: 4\n" in messages[-1]["content"] else 0.1
        return normalised(np.log([true * 0.5, (1 - true) * 0.5]))


def _answer(**given: object) -> Answer:
    return Answer("m", "4", log_probabilities=SAID, runner_up=OTHER, **given)  # type: ignore[arg-type]


def test_token_probabilities_are_mean_least_and_product() -> None:
    assert token_probability(SAID, "mean") == pytest.approx((0.9 * 0.5 * 0.8) ** (1 / 3))
    assert token_probability(SAID, "least") == pytest.approx(0.5)
    assert token_probability(SAID, "sequence") == pytest.approx(0.36)


def test_only_the_sequence_probability_falls_when_a_sure_answer_repeats_itself() -> None:
    twice = np.concatenate([SAID, SAID])
    assert token_probability(twice, "mean") == pytest.approx(token_probability(SAID, "mean"))
    assert token_probability(twice, "least") == pytest.approx(token_probability(SAID, "least"))
    assert token_probability(twice, "sequence") < token_probability(SAID, "sequence")


def test_a_margin_is_the_distance_to_the_runner_up() -> None:
    assert token_margin(SAID, OTHER, "first") == pytest.approx(0.85)
    assert token_margin(SAID, OTHER, "least") == pytest.approx(0.1)
    assert token_margin(SAID, OTHER, "mean") == pytest.approx((0.85 + 0.1 + 0.7) / 3)
    alone = np.full(3, -np.inf)
    assert token_margin(SAID, alone, "least") == pytest.approx(0.5)
    assert token_margin(OTHER, SAID, "least") == 0.0


def test_quantile_features_run_from_the_least_to_the_likeliest_token() -> None:
    features = quantile_features(SAID)
    assert features.shape == (11,)
    assert features[0] == SAID.min()
    assert features[-1] == SAID.max()
    assert features[5] == np.median(SAID)
    assert (np.diff(features) >= 0).all()


def test_a_quantile_model_learns_which_tokens_matter() -> None:
    rng = np.random.default_rng(0)
    answers = [np.log(rng.uniform(0.3, 1.0, size=rng.integers(4, 12))) for _ in range(300)]
    right = np.array([a.min() > np.log(0.45) for a in answers], float)
    model = QuantileModel.fit(answers, right)
    scores = np.array([model.score(a) for a in answers])
    assert scores[right == 1].mean() > scores[right == 0].mean() + 0.5
    again = QuantileModel.from_dict(json.loads(json.dumps(model.to_dict())))
    assert [again.score(a) for a in answers[:5]] == [model.score(a) for a in answers[:5]]
    with pytest.raises(PolicyError, match="some right and some wrong"):
        QuantileModel.fit(answers, np.ones(300))


def test_predictive_entropy_ends_at_certainty_and_at_chance() -> None:
    laws = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    expected = [1.0, 0.0, 1 - np.log(2) / np.log(3)]
    np.testing.assert_allclose(option_certainty(laws), expected, atol=1e-12)
    assert sampled_certainty(np.log([0.2, 0.8])) == pytest.approx(0.4)
    for bad in (np.array([0.5, 0.4]), np.array([1.2, -0.2]), np.array([1.0])):
        with pytest.raises(PolicyError):
            option_certainty(bad)


def test_the_share_of_the_majority_does_not_depend_on_the_order() -> None:
    for row in itertools.permutations(["4", "4", "5", ""]):
        assert majority_share(answer_numbers([row]))[0] == 0.5
    assert majority_share(answer_numbers([["", ""]]))[0] == 0.0


@pytest.mark.parametrize(("first", "second"), [(3, 0), (4, 1), (2, 2), (7, 3)])
def test_the_beta_posterior_is_the_integral_of_its_density(first: int, second: int) -> None:
    from scipy.integrate import quad
    from scipy.stats import beta

    density = beta(first + 1, second + 1).pdf
    expected = quad(density, 0.5, 1.0)[0]
    found = lead_is_sure(np.array(float(first)), np.array(float(second)))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_recorded_samples_stop_where_drawing_would_have() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        row = [str(a) for a in rng.choice(4, size=12, p=[0.6, 0.2, 0.1, 0.1])]
        row = ["" if a == "3" else a for a in row]
        drawn = sample_until_sure(lambda i, r=row: r[i], most=12, kind="number")  # type: ignore[misc]
        assert samples_needed(answer_numbers([row]))[0] == len(drawn.samples)
    alike = samples_needed(np.zeros((1, 12), int))
    assert alike.tolist() == [4]
    assert samples_needed(np.arange(6)[None]).tolist() == [6]
    assert samples_needed(np.full((1, 6), -1)).tolist() == [6]


def test_semantic_entropy_counts_meanings_not_words() -> None:
    same = ["4", "4.0", "8/2", "It is 4."]
    assert semantic_certainty(canonical_classes(same, "number")) == 1.0
    assert semantic_certainty(canonical_classes(["1", "2", "3", ""], "number")) == 0.0
    assert semantic_certainty(canonical_classes(["", ""])) == 0.0
    classes = canonical_classes(["a", "b", "a", "c"])
    assert semantic_entropy(class_law(classes)) == pytest.approx(1.5 * np.log(2))


def test_classes_may_weigh_by_the_probability_of_their_sequences() -> None:
    classes = np.array([0, 1, 0])
    said = np.log([0.1, 0.6, 0.1])
    np.testing.assert_allclose(class_law(classes, said), [0.25, 0.75])
    np.testing.assert_allclose(class_law(classes, said - 900.0), [0.25, 0.75])


def test_entailment_must_hold_in_both_directions() -> None:
    below = {"poodle": "dog", "dog": "animal"}

    def entails(question: str, premise: str, hypothesis: str) -> bool:
        return premise == hypothesis or below.get(premise) == hypothesis

    found = entailment_classes("What is it?", ["dog", "poodle", "dog", "", ""], entails)
    assert found.tolist() == [0, 1, 0, 2, 3]


def test_the_loss_counts_right_answers_and_their_token_but_of_wrong_ones_the_token_alone() -> None:
    right = confidence_targets([5, 6], [7, 8, 0], True, sure=1, unsure=2)
    assert right.ids.tolist() == [5, 6, 7, 8, 0, 1]
    assert right.counted.tolist() == [False, False, True, True, True, True]
    wrong = confidence_targets([5, 6], [7, 8, 0], False, sure=1, unsure=2)
    assert wrong.ids.tolist() == [5, 6, 7, 8, 0, 2]
    assert wrong.counted.tolist() == [False] * 5 + [True]
    with pytest.raises(PolicyError, match="tokens of their own"):
        confidence_targets([1], [7], True, sure=1, unsure=2)


def test_confidence_is_the_ratio_of_two_probabilities() -> None:
    p, q = np.array([0.3, 1e-30]), np.array([0.1, 1e-30])
    np.testing.assert_allclose(confidence(np.log(p), np.log(q)), [0.75, 0.5])


@pytest.mark.torch
def test_a_confidence_head_finds_the_direction_of_right_answers() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 8))
    right = (states[:, 2] - states[:, 5] + 0.3 * rng.normal(size=400) > 0).astype(float)
    head = ConfidenceHead.fit(states[:300], right[:300])
    found = head.score(states[300:]) >= 0.5
    assert (found == right[300:].astype(bool)).mean() > 0.85
    again = ConfidenceHead.from_dict(json.loads(json.dumps(head.to_dict())))
    np.testing.assert_array_equal(again.score(states), head.score(states))
    with pytest.raises(PolicyError, match="width 3"):
        head.score(np.zeros(3))
    with pytest.raises(PolicyError, match="both right and wrong"):
        ConfidenceHead.fit(states, np.ones(400))


def test_p_true_is_the_probability_of_the_true_label() -> None:
    model = KnownLaw()
    judge = PTrueJudge(model, cost=0.001)
    assert judge.score("2 + 2?", Answer("m", "4", samples=("4", "5"))) == pytest.approx(0.8)
    assert judge.score("2 + 2?", Answer("m", "5")) == pytest.approx(0.1)
    assert "Possible answers:\n- 4\n- 5\n" in model.asked[0]
    assert "Possible answers" not in model.asked[1]
    with pytest.raises(PolicyError, match="labels"):
        PTrueJudge(model, labels=("yes", "yes"))


def _judges() -> list[Judge]:
    answers = [np.log([p, 0.9]) for p in (0.2, 0.3, 0.8, 0.9)]
    quantiles = QuantileModel.fit(answers, np.array([0.0, 0.0, 1.0, 1.0]))
    head = ConfidenceHead(np.zeros(2), np.ones(2), np.array([[0.0, 1.0], [0.0, 0.0]]), np.zeros(2))
    return [
        *(TokenProbabilityJudge(k) for k in ("mean", "least", "sequence")),  # type: ignore[arg-type]
        QuantileJudge(quantiles),
        *(MarginJudge(k) for k in ("first", "least", "mean")),  # type: ignore[arg-type]
        PredictiveEntropyJudge(),
        SelfConsistencyJudge("number"),
        SemanticEntropyJudge("number"),
        SemanticEntropyJudge("number", weighted=True),
        ConfidenceTokenJudge(head),
    ]


def test_every_judge_scores_a_sure_answer_above_a_doubtful_one_within_zero_and_one() -> None:
    sure = Answer(
        "m",
        "4",
        log_probabilities=np.log([0.99, 0.99]),
        runner_up=np.log([0.01, 0.005]),
        samples=("4", "4.0", "4"),
        sample_log_probabilities=(-0.1, -0.1, -0.2),
        hidden=np.array([2.0, 0.0]),
    )
    doubtful = Answer(
        "m",
        "4",
        log_probabilities=np.log([0.3, 0.4]),
        runner_up=np.log([0.29, 0.35]),
        samples=("5", "4", "7"),
        sample_log_probabilities=(-3.0, -2.0, -3.0),
        hidden=np.array([-2.0, 0.0]),
    )
    for judge in _judges():
        high, low = judge.score("2 + 2?", sure), judge.score("2 + 2?", doubtful)
        assert high is not None, judge.name
        assert low is not None, judge.name
        assert 0.0 <= low < high <= 1.0, judge.name


def test_a_judge_says_nothing_of_what_was_not_observed() -> None:
    for judge in _judges():
        assert judge.score("2 + 2?", Answer("m", "4")) is None, judge.name


def test_an_answer_is_made_of_what_a_chat_model_generated() -> None:
    said = Generation("4", 5, 2, "stop", "m", SAID, OTHER)
    answer = Answer.of(said, [said, said])
    assert answer.text == "4"
    assert answer.samples == ("4", "4")
    assert answer.sample_log_probabilities == (pytest.approx(SAID.sum()),) * 2
    silent = Generation("4", 5, 2, "stop", "m")
    assert Answer.of(silent, [said, silent]).sample_log_probabilities == ()


@pytest.mark.parametrize(
    "bad", [np.array([]), np.array([0.5]), np.array([np.nan]), np.zeros((2, 2))]
)
def test_what_is_no_log_probability_is_refused(bad: FloatArray) -> None:
    with pytest.raises(PolicyError, match="log_probabilities"):
        token_probability(bad)


def test_unknown_kinds_and_rules_are_refused() -> None:
    with pytest.raises(PolicyError, match="kind='median'"):
        TokenProbabilityJudge("median")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="kind='last'"):
        MarginJudge("last")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="sure=1"):
        samples_needed(np.zeros((1, 3), int), sure=1)
    with pytest.raises(PolicyError, match="runner_up"):
        token_margin(SAID, OTHER[:2])
