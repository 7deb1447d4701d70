"""Scores of answers are what was observed of them, learned on other answers."""

import numpy as np
import pandas as pd
import pytest

from wye.checks.query.answer_scores import BINS, PRIOR, answer_scores, score_kind
from wye.data import RoutingData


def naive(train: RoutingData, data: RoutingData) -> np.ndarray:
    """Decile by decile, answer by answer."""
    result = np.full(data.quality.shape, np.nan)
    for m in range(len(data.models)):
        lengths, right = train.matrix("output_tokens")[:, m], train.quality[:, m]
        edges = sorted(set(np.quantile(lengths, [k / BINS for k in range(1, BINS)]).tolist()))
        for i, length in enumerate(data.matrix("output_tokens")[:, m]):
            if np.isnan(length):
                continue
            place = sum(e <= length for e in edges)
            same = [
                r
                for r, n in zip(right, lengths, strict=True)
                if sum(e <= n for e in edges) == place
            ]
            result[i, m] = (sum(same) + PRIOR * right.mean()) / (len(same) + PRIOR)
    return result


def test_an_answer_is_scored_by_its_decile_of_length(readable: RoutingData) -> None:
    bare = RoutingData(
        readable.queries, readable.outcomes.drop(columns="confidence"), readable.models
    )
    train, test = (bare.split(0.2).part(side) for side in ("train", "test"))
    assert score_kind(bare) == "answer length"
    np.testing.assert_allclose(answer_scores(train, test, "answer length"), naive(train, test))


def test_a_recorded_confidence_is_taken_as_it_is(readable: RoutingData) -> None:
    assert score_kind(readable) == "confidence"
    np.testing.assert_array_equal(
        answer_scores(readable, readable, "confidence"), readable.matrix("confidence")
    )


def test_the_scores_of_test_answers_never_depend_on_their_outcomes(readable: RoutingData) -> None:
    halves = readable.split(0.5)
    train, test = halves.part("train"), halves.part("test")
    flipped = RoutingData(
        test.queries, test.outcomes.assign(quality=1 - test.outcomes["quality"]), test.models
    )
    for kind in ("confidence", "answer length"):
        np.testing.assert_array_equal(
            answer_scores(train, test, kind), answer_scores(train, flipped, kind)
        )


def test_an_answer_of_unknown_length_has_no_score() -> None:
    data = RoutingData(
        pd.DataFrame(
            {"query_id": ["a", "b"], "dataset": "d", "text": ["x", "y"], "split": "train"}
        ),
        pd.DataFrame(
            {
                "query_id": ["a", "b"],
                "model": "m",
                "quality": [1.0, 0.0],
                "output_tokens": [3, None],
            }
        ),
        pd.DataFrame({"model": ["m"]}),
    )
    scores = answer_scores(data, data, "answer length")
    assert scores[0, 0] == pytest.approx(1.0)
    assert np.isnan(scores[1, 0])
