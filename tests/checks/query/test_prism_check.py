"""What the check of personas is made of: two kinds of prompts, a rule, what it needs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from wye.checks import CheckContext, CheckError
from wye.checks.query import prism
from wye.checks.query.persona_prompts import (
    EXAMPLES,
    facts,
    is_report,
    open_prompts,
)
from wye.data import load_embedded

pytestmark = pytest.mark.torch


def test_the_examples_keep_the_form_that_they_show() -> None:
    assert all(is_report(answer) for _, answer in EXAMPLES)


@pytest.mark.parametrize(
    "answer",
    ["", "- a\n- b", "- a\n- b\n- c\n- d", "- a\n\n- b\n- c", "* a\n* b\n* c", "- a\n- b\n- "],
)
def test_other_forms_are_no_reports(answer: str) -> None:
    assert not is_report(answer)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prompts_to_learn_from_and_to_measure_on_are_different(seed: int) -> None:
    asked = open_prompts(prism.N_TRAIN + prism.N_OPEN, seed)
    known = [fact.question for fact in facts(prism.N_TRAIN + prism.N_FACTS, seed)]
    assert len({*asked, *known}) == 2 * prism.N_TRAIN + prism.N_OPEN + prism.N_FACTS
    assert asked != open_prompts(len(asked), seed + 1)
    shown = {question for question, _ in EXAMPLES}
    assert not shown & {*asked, *known}


def test_sums_are_right_and_the_other_answer_is_wrong() -> None:
    sums = [fact for fact in facts(61, seed=0) if "+" in fact.question]
    assert len(sums) == 36
    for fact in sums:
        a, b = (int(n) for n in fact.question[len("What is ") : -1].split(" + "))
        assert fact.right == str(a + b) != fact.wrong


@pytest.mark.parametrize("missing", ["peft", "gguf", "accelerate"])
def test_what_is_missing_is_named_with_its_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prism.find_spec

    def found(name: str, *args: Any) -> Any:
        return None if name == missing else real(name, *args)

    monkeypatch.setattr(prism, "find_spec", found)
    with pytest.raises(CheckError, match=rf"{missing} is not installed.*wye\[adapters\]"):
        prism.check(CheckContext(data=load_embedded(), seeds=(0,)))
