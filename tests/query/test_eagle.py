"""Eagle: Elo by the book, replayed around each query, and learned from one outcome more."""

from __future__ import annotations

import numpy as np
import pytest

from wye.query import EagleRouter, RouterError, get_router
from wye.query.eagle import EagleEstimator, elo_round
from wye.testing import made_outcomes
from wye.testing.query_data import made_inputs


def classic(ratings: list[float], score: float, k: float = 32.0) -> list[float]:
    expected = 1 / (1 + 10 ** ((ratings[1] - ratings[0]) / 400))
    return [ratings[0] + k * (score - expected), ratings[1] - k * (score - expected)]


def test_a_round_of_two_is_elo_by_the_book() -> None:
    ratings = [1000.0, 1000.0]
    state = np.array(ratings)
    for quality, score in (([1.0, 0.2], 1.0), ([0.3, 0.3], 0.5), ([0.0, 0.9], 0.0)):
        ratings = classic(ratings, score)
        state = state + elo_round(state, np.array(quality), 32.0)
    np.testing.assert_allclose(state, ratings)


def test_a_round_of_many_is_its_battles_at_the_ratings_from_before() -> None:
    generator = np.random.default_rng(0)
    ratings, quality = 1000 + 100 * generator.normal(size=5), generator.random(5)
    quality[3] = np.nan
    moved = np.zeros(5)
    players = [0, 1, 2, 4]
    for a in players:
        for b in players:
            if a != b:
                expected = 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400))
                moved[a] += 32 / 3 * (float(quality[a] > quality[b]) - expected)
    np.testing.assert_allclose(elo_round(ratings, quality, 32.0), moved)


def test_ratings_keep_their_sum_and_no_round_moves_one_by_more_than_k() -> None:
    generator = np.random.default_rng(1)
    ratings, quality = 1000 + 300 * generator.normal(size=(50, 6)), generator.random((50, 6))
    quality[generator.random(quality.shape) < 0.3] = np.nan
    moved = elo_round(ratings, quality, 32.0)
    np.testing.assert_allclose(moved.sum(axis=1), 0.0, atol=1e-9)
    assert np.abs(moved).max() <= 32.0
    assert not moved[~np.isfinite(quality)].any()


def test_equals_that_tie_stay_as_they_are() -> None:
    np.testing.assert_allclose(elo_round(np.full(4, 1200.0), np.full(4, 0.7), 32.0), 0.0)


def test_local_ratings_replay_the_nearest_queries_the_nearest_last() -> None:
    generator = np.random.default_rng(2)
    inputs, quality = made_inputs(generator.normal(size=(30, 3))), generator.random((30, 4))
    estimator = EagleEstimator(n_neighbours=5, share=0.25).fit(inputs, quality)
    made = estimator.ratings(inputs)
    for q in range(30):
        local = estimator.global_rating.copy()
        for neighbour in inputs.neighbours.index[q, :5][::-1]:
            local = local + elo_round(local, quality[neighbour], 32.0)
        np.testing.assert_allclose(made[q], 0.25 * estimator.global_rating + 0.75 * local)


def test_with_all_weight_on_the_global_rating_every_query_is_alike() -> None:
    router = EagleRouter(share=1.0).fit(made_outcomes(60))
    quality = router.estimate(made_outcomes(20, seed=1).texts).quality
    np.testing.assert_allclose(quality, np.broadcast_to(quality[0], quality.shape))


def test_an_outcome_observed_moves_the_global_ratings_as_one_in_the_log() -> None:
    generator = np.random.default_rng(3)
    vectors, quality = generator.normal(size=(21, 3)), generator.random((21, 3))
    whole = EagleEstimator().fit(made_inputs(vectors), quality)
    grown = EagleEstimator().fit(made_inputs(vectors[:20]), quality[:20]).observe(quality[20])
    np.testing.assert_allclose(grown.global_rating, whole.global_rating)
    np.testing.assert_array_equal(grown.outcomes_, whole.outcomes_)


def test_observed_outcomes_change_what_is_expected_of_queries_like_them() -> None:
    router = EagleRouter().fit(made_outcomes(120))
    text = "Wie heißt der Roman über den Zauberberg?"
    before = router.estimate([text]).quality[0]
    for _ in range(15):
        router.observe(text, {"weak": 1.0, "coder": 0.0})
    after = router.estimate([text]).quality[0]
    weak, coder = (router.models_.index(m) for m in ("weak", "coder"))
    assert after[weak] - after[coder] > before[weak] - before[coder] + 0.05


def test_the_oldest_query_is_forgotten_where_only_so_many_are_kept() -> None:
    router = EagleRouter(max_references=40).fit(made_outcomes(60))
    router.observe("one more", {"weak": 1.0})
    assert len(router.references_) == 40
    estimator = router.estimators_["eagle"]
    assert isinstance(estimator, EagleEstimator)
    assert estimator.outcomes_.shape == (40, 4)
    assert estimator.outcomes_[-1, router.models_.index("weak")] == 1.0


@pytest.mark.parametrize(
    ("quality", "message"),
    [({}, "no model"), ({"nobody": 1.0}, "nobody"), ({"weak": float("nan")}, "0 to 1")],
)
def test_outcomes_that_cannot_be_learned_are_refused(
    quality: dict[str, float], message: str
) -> None:
    with pytest.raises(RouterError, match=message):
        EagleRouter().fit(made_outcomes(20)).observe("text", quality)


@pytest.mark.parametrize("wrong", [{"share": -0.1}, {"k_factor": 0.0}, {"n_neighbours": 0}])
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RouterError, match=str(next(iter(wrong)))):
        get_router("eagle", **wrong).fit(made_outcomes(20))
