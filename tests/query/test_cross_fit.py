"""No query is estimated by a router that saw its question."""

from __future__ import annotations

import numpy as np
import pytest

import wye
from wye.data import DataError
from wye.data.questions import folds_by_question
from wye.query import ConstantRouter, RouterError, get_router
from wye.query.cross_fit import cross_fit, decision_times
from wye.testing import made_outcomes


def test_each_part_is_estimated_by_the_router_of_the_others() -> None:
    data = made_outcomes(90)
    made = cross_fit(lambda: get_router("linear"), data, folds=3, seed=1, timed=True)
    assert set(made.parts) == {0, 1, 2}
    assert len(made.fit_seconds) == 3
    assert (made.decision_seconds > 0).all()
    for part in range(3):
        rows = made.parts == part
        expected = get_router("linear").fit(data.where(~rows)).estimate(data.where(rows).texts)
        for field in ("quality", "quality_std", "cost", "latency", "novelty"):
            np.testing.assert_array_equal(
                getattr(made.estimate, field)[rows], getattr(expected, field)
            )


def test_the_same_question_never_stands_on_both_sides() -> None:
    seen: list[set[str]] = []

    class Spy(ConstantRouter):
        def fit(self, data: wye.RoutingData) -> Spy:
            seen.append({" ".join(t.lower().split()) for t in data.texts})
            super().fit(data)
            return self

    data = made_outcomes(60)
    texts = [data.texts[i // 2] + " " * (i % 2) for i in range(60)]
    twins = wye.RoutingData(data.queries.assign(text=texts), data.outcomes, data.models)
    made = cross_fit(Spy, twins, folds=3)
    for part, learned in zip(np.unique(made.parts), seen, strict=True):
        judged = {" ".join(texts[i].lower().split()) for i in np.flatnonzero(made.parts == part)}
        assert judged.isdisjoint(learned)


def test_parts_stay_as_questions_are_added_and_change_with_the_seed() -> None:
    texts = [f"question {i}" for i in range(300)]
    parts = folds_by_question(texts, 4, seed=1)
    np.testing.assert_array_equal(folds_by_question(texts[100:], 4, seed=1), parts[100:])
    assert (folds_by_question(texts, 4, seed=2) != parts).any()
    # Binomial(300, 1/4): five standard deviations are 37.5.
    assert (np.abs(np.bincount(parts, minlength=4) - 75) < 38).all()


def test_too_few_parts_or_questions_are_refused() -> None:
    data = made_outcomes(40)
    with pytest.raises(DataError, match="2 or more"):
        cross_fit(ConstantRouter, data, folds=1)
    with pytest.raises(RouterError, match="all in one"):
        cross_fit(ConstantRouter, data.where(np.arange(40) == 0), folds=3)


def test_single_decisions_are_timed_one_by_one() -> None:
    router = ConstantRouter().fit(made_outcomes(30))
    assert decision_times(router, ["one question"]).shape == (60,)
