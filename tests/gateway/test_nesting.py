"""How deep a value is nested, against the recursion that says so of what is not too deep for it."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.nesting import deeper_than

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(MappingProxyType)
    ),
    max_leaves=20,
)


def depth(value) -> int:
    if isinstance(value, dict | MappingProxyType):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 8))
def test_a_value_is_deeper_than_all_levels_but_its_own(value, levels):
    assert deeper_than(levels, value) == (depth(value) > levels)


def test_no_stack_bounds_it():
    value: object = 1
    for _ in range(100_000):
        value = [value]
    assert deeper_than(99_999, value)
    assert not deeper_than(100_000, value)
