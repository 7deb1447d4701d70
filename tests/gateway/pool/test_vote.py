"""Equal answers in different words are equal votes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.pool.strategies.step_by_step import conclusion
from wye.gateway.pool.vote import final_answer


@given(st.integers(-(10**6), 10**6))
def test_a_number_votes_the_same_in_any_sentence(n):
    written = (f"{n}", f"{n}.", f"The answer is {n}.", f"1 + 1 = {n}", f"It is {n:,}", f"{n}.0")
    assert len({final_answer(text) for text in written}) == 1


@given(st.sampled_from(["Lima", "Côte d’Ivoire", "New Zealand", "São Paulo"]))
def test_a_name_votes_the_same_in_any_sentence(name):
    written = (name, f"{name}.", name.upper(), f"The capital of it is {name}.", f"It is {name}!")
    assert len({final_answer(text) for text in written}) == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes, it is 5.", "yes"), ("no", "no"), ("Lima is a city. So 3.", "3"), ("", "")],
)
def test_a_verdict_counts_before_a_number_and_a_number_before_a_name(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("reasoning", "answer"),
    [
        ("4 * 6 = 24. The answer is 24.", "24"),
        ("The answer is 3. No: the answer is. The answer is 3.5.", "3.5"),
        ("It never says", "It never says"),
        ("Rome is in Italy. The answer is Italy. And so on", "Italy"),
    ],
)
def test_the_conclusion_of_a_reasoning_is_what_it_says_last(reasoning, answer):
    assert conclusion(reasoning) == answer
