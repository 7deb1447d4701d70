"""What an upstream sent passes on as it came, where UTF-8 can carry it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.surfaces.received import Received, text_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
OBJECTS = st.dictionaries(
    st.text(), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3))
)


@given(OBJECTS, st.integers(0, 2))
def test_the_text_says_what_was_read(value, indent):
    text = json.dumps(value, indent=indent or None, ensure_ascii=bool(indent % 2))
    found = Received(json.loads(text), text)
    assert found == value
    assert text_of(found) == text


def test_an_object_of_ones_own_is_written():
    assert json.loads(text_of({"a": [1.5, "é"]})) == {"a": [1.5, "é"]}


@pytest.mark.parametrize("text", ['{"a": "\ud83d"}', '{"a": "x", "b": "\udc00"}'])
def test_half_a_character_is_written_so_that_utf8_can_carry_it(text):
    found = text_of(Received(json.loads(text), text))
    assert json.loads(found.encode()) == json.loads(text)
