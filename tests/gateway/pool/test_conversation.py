"""What a conversation must look like, and where worked examples go in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.pool import AnswerParams, StrategyError
from wye.gateway.pool.answer import conversation, with_examples

TEXTS = st.text(max_size=30)
TALKS = st.builds(
    lambda system, turns, last: [
        *({"role": "system", "content": s} for s in system),
        *(
            {"role": role, "content": t}
            for pair in turns
            for role, t in zip(("user", "assistant"), pair, strict=True)
        ),
        {"role": "user", "content": last},
    ],
    st.lists(TEXTS, max_size=2),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=3),
    TEXTS,
)


@given(TALKS)
def test_plain_messages_pass_unchanged(talk):
    assert conversation(talk) == talk


@given(TALKS, st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_examples_stand_between_system_and_first_turn_and_lose_nothing(talk, shown):
    placed = with_examples(talk, shown)
    n_system = sum(m["role"] == "system" for m in talk)
    assert placed[:n_system] == talk[:n_system]
    assert placed[n_system + 2 * len(shown) :] == talk[n_system:]
    turns = placed[n_system : n_system + 2 * len(shown)]
    pairs = zip(turns[::2], turns[1::2], strict=True)
    assert [(u["content"], a["content"]) for u, a in pairs] == shown


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert conversation([{"role": "user", "content": parts}])[0]["content"] == "one\ntwo"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no message at all"),
        ([{"role": "assistant", "content": "hi"}], "ends with assistant"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "'image_url'"),
        ([{"role": "user", "content": 7}], "of type int"),
        ([{"content": "hi"}], "role None"),
    ],
)
def test_what_cannot_be_answered_is_named(messages, said):
    with pytest.raises(StrategyError, match=said):
        conversation(messages)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -0.1}, {"temperature": 3.0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(StrategyError, match=next(iter(wrong))):
        AnswerParams(**wrong)
