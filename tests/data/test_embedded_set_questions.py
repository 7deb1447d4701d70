"""The questions of the embedded set: the same in every process, and graded as a person would."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
NEEDED = ("babel", "countryinfo", "periodictable", "reasoning_gym")


@pytest.fixture
def questions(monkeypatch):
    """The module of questions and graders, which needs nothing but Python."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from embedded_set import question

    return question


@pytest.fixture
def kinds(questions):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing} are not installed: they come with the dependency group `dataset`")
    from embedded_set import kinds

    return kinds


RIGHT = [
    ("names", "Lima", "The capital of Peru is Lima."),
    ("names", "Côte d’Ivoire", "It is cote d'ivoire"),
    ("code", "Au", "The symbol of gold is Au."),
    ("code", "PE", "PE"),
    ("number", "42", "12 + 30 = 42."),
    ("number", "1234", "That is 1,234"),
    ("number", "-3", "-3"),
    ("number", "32", "32.0"),
    ("yes_no", "yes", "Yes, it is."),
    ("yes_no", "no", "False"),
    ("letter", "n", "The last letter is 'n'."),
    ("letter", "n", "N"),
    ("letter", "p", 'The letter "P" comes first'),
    ("exact", "eyw", '"eyw"'),
    ("exact", "anna.chen@example.com", "Write to anna.chen@example.com."),
    ("whole", "a, b, c", "Sorted: a, b, c."),
]
WRONG = [
    ("names", "Lima", "The capital of Peru is Quito."),
    ("names", "Lima", "Lima or Quito"),
    ("names", "Lima", "Limassol"),
    ("code", "Au", "Ag"),
    ("code", "Au", "Au or Ag"),
    ("code", "Au", "au"),
    ("number", "42", "42 is what you get from 40 and 3"),
    ("number", "42", "421"),
    ("number", "42", "4.2"),
    ("number", "42", ""),
    ("yes_no", "yes", "No, yes"),
    ("yes_no", "no", "I know not"),
    ("letter", "n", "It ends in \"e\" and not in 'm'"),
    ("letter", "a", "It is a word"),
    ("exact", "eyw", "eywa"),
    ("exact", "COLD LION", "cold lion"),
    ("whole", "a, b, c", "a, b, c, d"),
]


def asked(questions, grader, answer):
    rivals = {"names": ("Quito", "Lima Duarte"), "code": ("Ag", "Cu")}.get(grader, ())
    return questions.Question(text="Which is it?", answer=answer, grader=grader, rivals=rivals)


@pytest.mark.parametrize(("grader", "answer", "text"), RIGHT)
def test_right_answers_are_seen_as_right(questions, grader, answer, text):
    assert questions.grade(text, asked(questions, grader, answer))


@pytest.mark.parametrize(("grader", "answer", "text"), WRONG)
def test_wrong_answers_are_seen_as_wrong(questions, grader, answer, text):
    assert not questions.grade(text, asked(questions, grader, answer))


def test_every_question_accepts_its_own_answer_and_no_other_of_its_kind(kinds, questions):
    for kind in kinds.KINDS:
        drawn = kinds.draw(kind, 8, 4, seed=1).questions
        for question in drawn:
            assert questions.grade(question.answer, question), question
        answers = {q.answer for q in drawn}
        assert len(answers) > 1, kind
        for question in drawn:
            for other in answers - {question.answer, *question.accepted}:
                if questions.words_of(other) not in questions.words_of(question.text).split():
                    assert not questions.grade(other, question), (question, other)


def test_questions_and_examples_are_distinct(kinds):
    from wye.data import normalise

    for kind in kinds.KINDS:
        drawn = kinds.draw(kind, 10, 4, seed=2)
        texts = [normalise(q.text) for q in (*drawn.questions, *drawn.examples)]
        assert len(texts) == len(set(texts)) == 14


def test_more_questions_leave_the_first_ones_as_they_are(kinds):
    few, many = kinds.draw("capital", 5, 4, seed=0), kinds.draw("capital", 30, 4, seed=0)
    assert many.questions[:5] == few.questions
    assert many.examples == few.examples


def test_the_questions_are_the_same_in_every_process(kinds):
    script = (
        "from embedded_set.kinds import KINDS, draw\n"
        "for kind in KINDS:\n"
        "    drawn = draw(kind, 4, 4, seed=0)\n"
        "    print([(q.text, q.answer) for q in (*drawn.questions, *drawn.examples)])\n"
    )
    printed = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        ).hexdigest()
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_a_kind_without_questions_enough_says_so(kinds):
    with pytest.raises(RuntimeError, match="distinct questions"):
        kinds.draw("opposite", 100_000, 4, seed=0)


def test_the_worked_examples_and_facts_of_the_pool_are_what_the_script_writes(kinds, tmp_path):
    import make_embedded_set

    drawn = [kinds.draw(kind, 1, make_embedded_set.N_EXAMPLES, 0) for kind in kinds.KINDS]
    make_embedded_set.write_pool_tables(drawn, tmp_path)
    committed = make_embedded_set.SOURCE / "gateway" / "pool" / "tables"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in committed.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_text("utf-8") == (committed / path.name).read_text("utf-8"), path.name
