"""Two asks count as one only where nothing that vectors do not see tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from wye.data import load_embedded
from wye.embed import get_embedder
from wye.gateway.answer_cache.likeness import agree
from wye.gateway.answer_cache.settings import AnswerCacheTable


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Why do Poles dislike Russians?", "Why do Russians dislike Poles?"),
        ("What is 17 + 25?", "What is 17 + 26?"),
        ("Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"),
        ("Why isn't the sky green?", "Why is the sky green?"),
        ("Good arguments for virtue ethics?", "Good arguments against virtue ethics?"),
        ("How far is it from Rome to Pisa?", "How far is it to Rome from Pisa?"),
        ("What is the meaning of your name?", "What is the meaning of my name?"),
        ("I found a few hundred bucks. Now?", "I found a few thousand bucks. Now?"),
        ("Who is the second president?", "Who is the third president?"),
        ("Send it by Monday, with the plan.", "Send it by Friday, with the plan."),
        ("Is that true of the bridge?", "Is that false of the bridge?"),
        ("With x = a + b, what is x?", "With x = a - b, what is x?"),
        ("Is a > b?", "Is a < b?"),
        ("Is it above -a?", "Is it above a?"),
        ("\u4e3a\u4ec0\u4e48\u5929\u7a7a", "\u4e3a\u4ec0\u4e48\u6d77\u6d0b"),
    ],
)
def test_what_changes_the_question_tells_them_apart(one, other):
    assert not agree(one, other)
    assert not agree(other, one)
    assert agree(one, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I cook an egg?", "how can I cook an egg"),
        ("Which laptop should I buy?", "Which laptop I should buy?"),
        ("Why doesn't it rain?", "Why doesn\u2019t it rain?"),
        ("How are well-known cities planned?", "How is a well-known city planned"),
        ("Which eggs can I cook?", "Which egg is cooked?"),
    ],
)
def test_small_words_and_marks_do_not(one, other):
    assert agree(one, other)


def test_hardly_any_of_the_embedded_questions_gets_the_answer_of_another():
    table = AnswerCacheTable()
    texts = load_embedded().texts
    texts = list(dict.fromkeys(t for t in texts if 0 < len(t) <= table.max_characters))
    vectors = get_embedder("static").embed(texts)
    pairs = np.argwhere(np.triu(vectors @ vectors.T, 1) >= table.threshold)
    near = {int(b) for _, b in pairs}
    hits = {int(b) for a, b in pairs if agree(texts[a], texts[b])}
    assert len(texts) > 1000
    # By the vectors alone one in sixty would; they hardly see which number is asked for.
    assert len(near) > 10 * len(hits)
    assert len(hits) / len(texts) < 0.002
