"""The same question falls on one side, whatever it is dressed in and wherever it stands."""

import hashlib
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.data import RoutingData, normalise, split_by_question

questions = st.text(min_size=1, max_size=30)


@settings(deadline=None)
@given(questions)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@settings(deadline=None)
@given(questions)
def test_case_spaces_and_unicode_form_do_not_make_another_question(text: str) -> None:
    dressed = "  " + unicodedata.normalize("NFD", text).replace(" ", "\t ") + "\n"
    assert normalise(dressed) == normalise(text)
    ascii_text = text.encode("ascii", "ignore").decode()
    assert normalise(ascii_text.upper()) == normalise(ascii_text.lower())


def test_full_width_letters_are_the_letters() -> None:
    assert normalise("Ｗｈａｔ　ｉｓ　２？") == "what is 2?"


def test_other_words_are_another_question() -> None:
    assert normalise("What is 2 + 2?") != normalise("What is 2 + 3?")


@settings(deadline=None)
@given(st.lists(questions, max_size=20), st.integers(-(2**31), 2**31))
def test_a_question_keeps_its_side_in_any_company_and_order(texts: list[str], seed: int) -> None:
    sides = dict(zip(texts, split_by_question(texts, test_share=0.5, seed=seed), strict=True))
    for text in texts:
        alone = split_by_question(
            ["other", " " + text.upper().lower() + " "], seed=seed, test_share=0.5
        )
        if normalise(text.upper().lower()) == normalise(text):
            assert alone[1] == sides[text]


def test_the_share_is_met_in_expectation_and_seeds_are_independent() -> None:
    texts = [f"question {i}" for i in range(20_000)]
    first = split_by_question(texts, test_share=0.2, seed=0) == "test"
    second = split_by_question(texts, test_share=0.2, seed=1) == "test"
    # Five standard deviations of a binomial share.
    assert abs(first.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 20_000)
    assert abs((first & second).mean() - 0.04) < 5 * np.sqrt(0.04 * 0.96 / 20_000)


def test_a_larger_share_only_adds_questions_to_the_test() -> None:
    texts = [f"question {i}" for i in range(500)]
    small = split_by_question(texts, test_share=0.1) == "test"
    large = split_by_question(texts, test_share=0.4) == "test"
    assert (large | ~small).all()
    assert (split_by_question(texts, test_share=0.0) == "train").all()
    assert (split_by_question(texts, test_share=1.0) == "test").all()


def test_no_question_lands_on_both_sides_of_a_union_of_sets(data: RoutingData) -> None:
    shouted = data.queries.assign(text=data.queries["text"].str.upper() + "  ")
    other = RoutingData(shouted, data.outcomes, data.models).with_prefix("other/")
    for seed in range(20):
        both = data.union(other).split(test_share=0.5, seed=seed).queries
        sides = both.groupby(both["text"].map(normalise))["split"].nunique()
        assert (sides == 1).all()


def test_the_split_is_the_first_bit_of_a_keyed_hash_so_that_it_outlives_releases() -> None:
    texts = [f"question {i}" for i in range(200)]
    for seed in (0, 1, -1):
        key = seed.to_bytes(16, "big", signed=True)
        low = [hashlib.blake2b(t.encode(), digest_size=8, key=key).digest()[0] < 128 for t in texts]
        sides = split_by_question(texts, test_share=0.5, seed=seed)
        assert (sides == "test").tolist() == low
