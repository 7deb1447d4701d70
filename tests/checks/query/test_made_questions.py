"""What checks make of a log's own answers: questions with options, and answers to judge."""

from __future__ import annotations

import numpy as np
import pytest

from wye.checks.base import CheckError
from wye.checks.query.option_questions import LETTERS, option_questions
from wye.checks.query.p_true import recorded_answers
from wye.data import RoutingData, load_embedded
from wye.query.answers.canonical import canonical
from wye.testing.query_data import made_outcomes


@pytest.fixture(scope="module")
def log() -> RoutingData:
    return load_embedded()


def test_the_true_option_was_graded_right_and_no_other_says_the_same(log: RoutingData) -> None:
    questions = option_questions(log, most=60, seed=1)
    right: dict[str, set[str]] = {}
    asked = dict(zip(log.queries["query_id"], log.texts, strict=True))
    for row in log.outcomes[log.outcomes["quality"] == 1.0].itertuples():
        right.setdefault(" ".join(asked[row.query_id].split()), set()).add(
            " ".join(str(row.answer).split())
        )
    assert len(questions.prompts) == 60
    for prompt, place in zip(questions.prompts, questions.truth, strict=True):
        *body, last = prompt.split("\n")
        options = [line.removeprefix(f"{x}. ") for x, line in zip(LETTERS, body[-4:], strict=True)]
        assert last == "Answer:"
        assert options[place] in right["\n".join(body[:-4])]
        assert len({canonical(o) for o in options}) == 4
    assert set(questions.truth) == {0, 1, 2, 3}


def test_the_same_seed_makes_the_same_questions(log: RoutingData) -> None:
    one, same, other = (option_questions(log, most=20, seed=s) for s in (1, 1, 2))
    assert one.prompts == same.prompts
    assert one.prompts != other.prompts


def test_recorded_answers_come_with_their_question_and_grade(log: RoutingData) -> None:
    texts, answers, right = recorded_answers(log, 50, seed=0)
    assert len(texts) == len(answers) == 50
    assert set(np.unique(right)) == {0.0, 1.0}
    asked = dict(zip(log.queries["query_id"], log.texts, strict=True))
    found = {
        (asked[r.query_id], r.model, str(r.answer).strip(), r.quality)
        for r in log.outcomes.itertuples()
    }
    for text, answer, grade in zip(texts, answers, right, strict=True):
        assert (text, answer.model, answer.text, grade) in found


def test_a_log_without_texts_of_answers_is_refused() -> None:
    with pytest.raises(CheckError, match="text of its answers"):
        option_questions(made_outcomes(20), most=5)
    with pytest.raises(CheckError, match="text of its answers"):
        recorded_answers(made_outcomes(20), 5, seed=0)
