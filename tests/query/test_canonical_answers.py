"""Canonical answers: what is the same answer, and what is none."""

from __future__ import annotations

import pytest

from wye.query.answers.canonical import canonical, canonical_all
from wye.query.base import RouterError

SAME = {
    "number": [
        ["0.50", "1/2", "50%", "\\boxed{\\frac{1}{2}}", "x = .5", "The answer is 3/6."],
        ["1,234", "1234.0", "$1,234", "1.234e3", "It was 7, then 9. Answer: 1234 apples in 3 days"],
        ["-7", "−7", "is -7.", "#### -7", "-14/2"],
        ["0", "-0", "0.000", "0/5"],
        ["3", "+3", "5 - 2 = 3", "the answer is: 3"],
    ],
    "option": [
        ["B", "b", "(b)", "B.", "**B**", "the answer is (B)", "Answer: b) a horse", "option B"],
        ["A", "A. A horse and a B", "I choose option A", "\\boxed{A}"],
    ],
    "text": [["Lima", " lima. ", '"LIMA"', "The answer is Lima."], ["new  york", "New\u00a0York"]],
    "code": [
        [
            "def f(n):\n    return n + 1",
            "def f(x: int) -> int:\n    '''Doc.'''\n    # more\n    return x+1",
            "Here it is:\n```python\ndef f(y):\n    return (y + 1)\n```\nDone.",
        ],
        ["for (", "for   (\n\n"],
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "texts"), [(k, texts) for k, groups in SAME.items() for texts in groups]
)
def test_ways_to_write_one_answer_are_one_string(kind: str, texts: list[str]) -> None:
    found = canonical_all(texts, kind)
    assert found[0]
    assert set(found) == {found[0]}, dict(zip(texts, found, strict=True))


@pytest.mark.parametrize("kind", SAME)
def test_different_answers_are_different_strings(kind: str) -> None:
    firsts = [canonical(texts[0], kind) for texts in SAME[kind]]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "text"),
        ("   \n", "option"),
        ("I don't know.", "number"),
        ("I'm sorry, but I cannot help with 3 of these.", "number"),
        ("As an AI language model", "option"),
        ("no number here", "number"),
        ("1/0", "number"),
        ("a cat", "option"),
        ("# nothing but a comment", "code"),
    ],
)
def test_refusals_and_texts_without_an_answer_are_no_answer(text: str, kind: str) -> None:
    assert canonical(text, kind) == ""


@pytest.mark.parametrize("kind", ["number", "option", "text"])
def test_a_canonical_answer_is_its_own_canonical_form(kind: str) -> None:
    for texts in SAME[kind]:
        once = canonical(texts[0], kind)
        assert canonical(once, kind) == once


def test_code_that_calls_or_names_something_else_is_another_answer() -> None:
    one = canonical("def f(a, b):\n    return min(a, b)", "code")
    assert one == canonical("def f(b, a):\n    return min(b, a)", "code")
    for other in (
        "def f(a, b):\n    return max(a, b)",
        "def f(a, b):\n    return min(b, a)",
        "def g(a, b):\n    return min(a, b)",
    ):
        assert canonical(other, "code") != one


def test_an_argument_given_by_name_keeps_its_name() -> None:
    assert canonical("f = lambda x: x\nf(x=1)", "code") != canonical(
        "f = lambda y: y\nf(y=1)", "code"
    )


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RouterError, match="kind 'date'"):
        canonical("1", "date")
