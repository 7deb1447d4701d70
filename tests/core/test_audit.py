"""A chain of records shows every edit, deletion and move, and has one form for every value."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.core.audit import (
    GENESIS,
    AuditChain,
    AuditError,
    AuditRecord,
    canonical_json,
    digest,
    find_break,
    verify,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def chain_of(n: int) -> AuditChain:
    chain = AuditChain()
    for i in range(n):
        chain.append("step", {"number": i, "share": i / 7, "text": "ä☃" * i})
    return chain


@given(values)
@settings(max_examples=60, deadline=None)
def test_a_value_has_one_text_that_survives_reading(value: object) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert canonical_json(json.loads(text)) == text


def test_the_order_of_keys_does_not_count_and_that_of_lists_does() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(1) != digest(1.0)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (math.nan, "write None for unknown"),
        ({"a": [math.inf]}, r"value\['a'\]\[0\] is inf"),
        ({1: 2}, "expected strings as keys"),
        ({"a": {2, 3}}, "convert it to plain Python"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: object, complaint: str) -> None:
    with pytest.raises(AuditError, match=complaint):
        canonical_json(value)


def test_a_whole_chain_holds_and_starts_from_nothing() -> None:
    chain = chain_of(5)
    verify(chain, head=chain.head)
    assert chain[0].previous == GENESIS
    assert [r.index for r in chain[1:3]] == [1, 2]
    verify([], head=GENESIS)
    assert AuditChain().head == GENESIS


def test_what_is_kept_is_what_was_hashed() -> None:
    body = {"list": [1]}
    chain = AuditChain()
    chain.append("step", body)
    body["list"].append(2)
    verify(chain)


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        (lambda r: [r[0], replace(r[1], body={"number": 9}), *r[2:]], 1, "edited"),
        (lambda r: [r[0], replace(r[1], step="other"), *r[2:]], 1, "edited"),
        (lambda r: [r[0], *r[2:]], 1, "deleted or moved"),
        (lambda r: r[1:], 0, "deleted or moved"),
        (lambda r: [r[1], r[0], *r[2:]], 0, "deleted or moved"),
        (lambda r: [r[0], r[1], r[1], *r[2:]], 2, "moved or repeated"),
        (lambda r: [r[0], AuditRecord.after(r[0], "step", {}), *r[2:]], 2, "does not follow"),
    ],
)
def test_every_change_is_found_where_it_was_made(
    change: Callable[[list[AuditRecord]], list[AuditRecord]], place: int, reason: str
) -> None:
    found = find_break(change(list(chain_of(4))))
    assert found is not None
    assert found.place == place
    assert reason in found.reason


def test_a_missing_end_is_found_by_who_kept_the_head() -> None:
    chain = chain_of(4)
    assert find_break(chain[:3]) is None
    with pytest.raises(AuditError, match="breaks at record 3: the chain ends with"):
        verify(chain[:3], head=chain.head)


def test_no_byte_of_a_line_can_be_changed_unseen() -> None:
    record = chain_of(3)[2]
    line = record.line()
    assert AuditRecord.parse(line) == record
    for place in range(len(line)):
        flipped = line[:place] + chr(ord(line[place]) ^ 1) + line[place + 1 :]
        try:
            read = AuditRecord.parse(flipped)
        except AuditError:
            continue
        assert read.fault_after(chain_of(2)[1]) is not None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected the fields"),
        ('{"body":{},"hash":"","index":true,"previous":"","step":""}', "index an integer"),
        ('{"body":{},"hash":"","index":0,"previous":"","step":"" }', "canonical"),
    ],
)
def test_a_line_that_is_no_record_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(AuditError, match=complaint):
        AuditRecord.parse(line)
