"""RouteLLM's four routers: what their formulas promise exactly, and that nothing else enters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from wye.query import RouterError, get_router
from wye.query.chat_models.base import ChatModel, ChatModelError, Generation, Message
from wye.query.learning.bradley_terry import elo, fit_bradley_terry, outcome_wins
from wye.query.learning.inputs import Neighbours, QueryInputs
from wye.query.learning.softmax_heads import fit_softmax_heads
from wye.query.routellm_bert import PreferenceClassifier, preference_labels
from wye.query.routellm_causal import LabelHeads, quality_labels, strong_score
from wye.query.routellm_mf import MatrixFactorisation
from wye.query.routellm_sw import SimilarityRanking, similarity_weights
from wye.testing import made_outcomes


def inputs_of(vectors: np.ndarray) -> QueryInputs:
    n = len(vectors)
    return QueryInputs(
        texts=("",) * n,
        vectors=vectors.astype(np.float32),
        features=np.zeros((n, 0), np.float32),
        neighbours=Neighbours(np.zeros((n, 0), np.intp), np.zeros((n, 0), np.float32)),
        reference=np.arange(n),
        n_references=n,
    )


def two_worlds(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, and outcomes of three models that depend on the sign of the first axis."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chance = np.where(vectors[:, :1] > 0, [0.9, 0.3, 0.6], [0.2, 0.8, 0.6])
    return vectors, (generator.random((n, 3)) < chance).astype(float)


def test_sw_with_equal_weights_is_the_global_ranking() -> None:
    vectors, quality = two_worlds()
    same = np.tile(vectors[:1], (len(vectors), 1))
    ranking = SimilarityRanking().fit(inputs_of(same), quality)
    expected = elo(fit_bradley_terry(outcome_wins(quality).sum(axis=0).astype(float)))
    np.testing.assert_allclose(ranking.ratings(same[:2].astype(np.float32))[0], expected, atol=0.01)


def test_sw_ratings_are_a_weighted_refit_of_all_battles() -> None:
    vectors, quality = two_worlds()
    ranking = SimilarityRanking().fit(inputs_of(vectors), quality)
    query = vectors[0].astype(np.float32)
    similarity = vectors @ query
    weight = 10 * 10 ** (similarity / similarity.max())
    battles = outcome_wins(quality).astype(float)
    wins = (weight[:, None, None] * battles).sum(axis=0)
    # The ridge weighs as in the global ranking: the battles count as many as there are.
    wins *= battles.sum() / wins.sum()
    found = ranking.ratings(query[None])[0]
    np.testing.assert_allclose(found, elo(fit_bradley_terry(wins)), atol=0.02)


def test_sw_ranks_the_model_of_the_nearer_world_higher() -> None:
    vectors, quality = two_worlds(300)
    ranking = SimilarityRanking().fit(inputs_of(vectors), quality)
    right, left = ranking.ratings(np.eye(6, dtype=np.float32)[[0, 0]] * [[1.0], [-1.0]])
    assert right[0] - right[1] > left[0] - left[1] + 50


def test_sw_weights_span_one_to_ten_and_are_equal_without_similarity() -> None:
    weight = similarity_weights(np.array([[0.4, 0.0], [-0.2, -0.5]], np.float32))
    np.testing.assert_allclose(weight[0], [100.0, 10.0], rtol=1e-5)
    assert weight[1, 0] == weight[1, 1]


def test_sw_models_of_one_tier_share_a_rating() -> None:
    vectors, quality = two_worlds()
    ranking = SimilarityRanking(n_tiers=2).fit(inputs_of(vectors), quality)
    ratings = ranking.ratings(vectors[:4].astype(np.float32))
    assert all(len(np.unique(row.round(6))) == 2 for row in ratings)


@pytest.mark.torch
def test_mf_swapping_strong_and_weak_gives_the_complement() -> None:
    vectors, quality = two_worlds()
    factors = MatrixFactorisation(epochs=60).fit(inputs_of(vectors), quality)
    one = factors.win_probability(vectors.astype(np.float32), 0, 1)
    other = factors.win_probability(vectors.astype(np.float32), 1, 0)
    np.testing.assert_allclose(one, 1 - other)
    assert np.corrcoef(one, vectors[:, 0])[0, 1] > 0.5


@pytest.mark.torch
def test_mf_noise_leaves_the_vectors_as_they_were() -> None:
    vectors, quality = two_worlds()
    inputs = inputs_of(vectors)
    before = inputs.vectors.copy()
    MatrixFactorisation(epochs=3).fit(inputs, quality)
    np.testing.assert_array_equal(inputs.vectors, before)


@pytest.mark.torch
def test_mf_learns_nothing_from_ties() -> None:
    vectors, quality = two_worlds()
    tied = np.repeat(quality[:, :1], 3, axis=1)
    both = np.concatenate([vectors, vectors])
    alone = MatrixFactorisation(epochs=3).fit(inputs_of(vectors), tied)
    np.testing.assert_array_equal(
        alone.scores(vectors.astype(np.float32)),
        MatrixFactorisation(epochs=9)
        .fit(inputs_of(both), np.tile(tied, (2, 1)))
        .scores(vectors.astype(np.float32)),
    )


def test_bert_labels_say_who_wins() -> None:
    labels = preference_labels(np.array([[0.0, 1.0, 1.0], [np.nan, 0.0, 0.5]]), strong=1)
    assert labels[0].argmax(axis=1).tolist() == [0, 1, 1]
    assert labels[1, 2].tolist() == [0.0, 0.0, 1.0]
    assert np.isnan(labels[1, 0]).all()


def test_bert_takes_a_tie_and_a_win_of_the_weak_for_enough() -> None:
    vectors, quality = two_worlds()
    classifier = PreferenceClassifier().fit(inputs_of(vectors), quality)
    p = classifier.heads_.probabilities(vectors.astype(np.float32))
    found = classifier.sufficiency(inputs_of(vectors))
    np.testing.assert_allclose(found, 1 - p[:, :, 0], atol=1e-6)


def test_causal_labels_are_fifths_of_quality() -> None:
    labels = quality_labels(np.array([[0.0, 0.25, 0.5, 0.75, 1.0, np.nan]]))[0]
    assert labels[:5].argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(labels[5]).all()


def test_causal_score_is_one_minus_the_upper_labels() -> None:
    assert strong_score(np.log([0.1, 0.2, 0.3, 0.15, 0.25])) == pytest.approx(0.6)
    vectors, quality = two_worlds()
    heads = LabelHeads().fit(inputs_of(vectors), quality)
    p = heads.heads_.probabilities(vectors.astype(np.float32))
    np.testing.assert_allclose(heads.sufficiency(inputs_of(vectors)), p[:, :, 3] + p[:, :, 4])


@pytest.mark.parametrize("bad", [np.full(5, np.nan), np.full(5, -np.inf), np.zeros(4)])
def test_causal_sends_an_invalid_output_to_the_strong_model(bad: np.ndarray) -> None:
    assert strong_score(bad) == 1.0


class Rater(ChatModel):
    """Says 5 of requests that ask for a capital, 1 of others, and nothing of code."""

    name = "rater"

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, messages: Sequence[Message], **_: object) -> Generation:  # type: ignore[override]
        raise ChatModelError("rates only")

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> np.ndarray:
        self.calls += 1
        text = messages[-1]["content"]
        if "def f" in text:
            raise ChatModelError("cannot say")
        sure = labels.index("5" if "capital" in text else "1")
        return np.log(np.where(np.arange(len(labels)) == sure, 0.96, 0.01))


def test_causal_by_prompt_asks_once_a_text_and_sends_what_it_cannot_say_to_the_strong() -> None:
    data = made_outcomes(60).with_models(("generalist", "weak"))
    rater = Rater()
    router = get_router("routellm-causal", chat_model=rater).fit(data)
    assert rater.calls == len(set(data.texts))
    estimate = router.estimate(data.texts)
    assert rater.calls == len(set(data.texts))
    gap = estimate.quality[:, 0] - estimate.quality[:, 1]
    kinds = data.datasets
    assert gap[kinds == "code"].min() == pytest.approx(gap.max())
    assert gap[kinds == "geography"].max() == pytest.approx(gap.min())
    assert gap[kinds == "geography"].max() < gap[kinds == "sums"].min()


def test_causal_refuses_what_is_no_chat_model() -> None:
    with pytest.raises(RouterError, match="chat_model"):
        get_router("routellm-causal", chat_model="gpt").fit(made_outcomes(10))


@pytest.mark.parametrize(
    "name", ["routellm-sw", "routellm-bert", "routellm-causal", "hybridllm", "best-route"]
)
def test_the_strong_model_is_expected_to_do_equally_well_on_every_query(name: str) -> None:
    """Of two models only the gap is judged, so it alone moves the estimate of the weak one."""
    data = made_outcomes(80).with_models(("generalist", "calculator"))
    quality = get_router(name).fit(data).estimate(data.texts).quality
    strong = int(data.quality.mean(axis=0).argmax())
    assert np.ptp(quality[:, strong]) == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(quality[:, 1 - strong]) > 0.01


def test_softmax_heads_minimise_the_penalised_cross_entropy() -> None:
    """Convex, so the least loss is where the gradient is zero."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    label = generator.integers(0, 3, 60)
    targets = np.eye(3)[label][:, None, :]
    heads = fit_softmax_heads(x, targets, penalty=2.0)
    shifted = x @ heads.coef[:, 0] + heads.intercept[0]
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(heads.probabilities(x)[:, 0], p, rtol=1e-5)
    prior = np.log((np.bincount(label) + 1 / 3) / 61)
    columns = np.hstack([x, np.ones((60, 1))])
    pull = np.vstack([heads.coef[:, 0], heads.intercept - prior])
    np.testing.assert_allclose(columns.T @ (p - targets[:, 0]) + 2.0 * pull, 0.0, atol=0.05)


def test_softmax_heads_ignore_unknown_labels_and_give_an_unseen_head_equal_chances() -> None:
    generator = np.random.default_rng(6)
    x = generator.normal(size=(30, 2)).astype(np.float32)
    targets = np.full((30, 2, 2), np.nan)
    targets[:20, 0] = np.eye(2)[generator.integers(0, 2, 20)]
    heads = fit_softmax_heads(x, targets)
    alone = fit_softmax_heads(x[:20], targets[:20, :1])
    np.testing.assert_allclose(heads.probabilities(x)[:, :1], alone.probabilities(x), atol=1e-3)
    np.testing.assert_allclose(heads.probabilities(x)[:, 1], 0.5)


def test_softmax_heads_refuse_what_is_no_distribution() -> None:
    x = np.zeros((2, 1), np.float32)
    with pytest.raises(RouterError, match="sum to 1"):
        fit_softmax_heads(x, np.full((2, 1, 2), 0.7))
    with pytest.raises(RouterError, match="penalty"):
        fit_softmax_heads(x, np.full((2, 1, 2), 0.5), penalty=0.0)
