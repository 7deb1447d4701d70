"""Server-sent events against the standard, whatever the bytes and whatever way they are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.sse import Decoder, Event, EventTooLongError, encode

# What a stream is made of, and what it should not be: every end of line, names with and without
# colon and space, comments, byte order marks, NUL, halves of characters.
SHRED = st.one_of(
    st.sampled_from(
        [
            b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"data", b"data:", b"data: ", b"data:  ",
            b"event:", b"event", b"id:", b"id", b"retry: 5", b":", b": beat", b" ", b"\t",
            b"\xef\xbb\xbf", b"\xef\xbb", b"\xbf", b"\x00", b"\xff", b"\xc3", b"\xa9", b"\xf0\x9f",
            b"\x98\x80", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"\x1c",
            b"DATA: no", b"datax: no", b"x" * 300,
        ]
    ),
    st.binary(max_size=4),
)  # fmt: skip
STREAM = st.lists(SHRED, max_size=24).map(b"".join)


def oracle(raw: bytes) -> list[Event]:
    """The standard word by word, one character after the other (WHATWG HTML, 9.2.5 and 9.2.6)."""
    text = raw.decode("utf-8", errors="replace")
    if text[:1] == "\ufeff":
        text = text[1:]
    found: list[Event] = []
    data, event_type, line = "", "", ""
    skip_newline = False
    for character in text:
        if skip_newline and character == "\n":
            skip_newline = False
            continue
        skip_newline = character == "\r"
        if character not in "\r\n":
            line += character
            continue
        if line == "":
            if data != "":
                found.append(Event(data[:-1] if data[-1] == "\n" else data, event_type))
            data, event_type = "", ""
        elif line[0] != ":":
            name, value = line, ""
            if ":" in line:
                place = line.index(":")
                name, value = line[:place], line[place + 1 :]
                if value[:1] == " ":
                    value = value[1:]
            if name == "data":
                data += value + "\n"
            elif name == "event":
                event_type = value
        line = ""
    return found


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(p % (len(raw) + 1) for p in places)})
    return [raw[a:b] for a, b in pairwise(edges)]


@given(STREAM, st.lists(st.integers(0, 500)))
def test_any_bytes_cut_in_any_way_are_read_as_the_standard_says(raw, places):
    decoder = Decoder()
    assert [e for part in cut(raw, places) for e in decoder.feed(part)] == oracle(raw)


@given(STREAM)
def test_a_cut_at_any_byte_changes_nothing(raw):
    expected = oracle(raw)
    for place in range(len(raw) + 1):
        decoder = Decoder()
        assert decoder.feed(raw[:place]) + decoder.feed(raw[place:]) == expected
    decoder = Decoder()
    assert [e for byte in raw for e in decoder.feed(bytes([byte]))] == expected


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_an_event_comes_with_the_end_of_its_blank_line_and_not_later(end):
    assert Decoder().feed(f"data: a{end}{end}".encode()) == [Event("a")]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])).map(
                lambda t: re.sub(r"\r\n|\r", "\n", t)
            ),
            st.text("abc_", max_size=5),
        )
    ),
    st.lists(st.integers(0, 500)),
)
def test_what_is_encoded_is_decoded_again(pairs, places):
    events = [Event(data, name) for data, name in pairs]
    raw = b"".join(encode(e) for e in events)
    decoder = Decoder()
    assert [e for part in cut(raw, places) for e in decoder.feed(part)] == events


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 60))
def test_no_more_than_the_limit_is_ever_held(chunks, limit):
    decoder = Decoder(limit)
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except EventTooLongError:
            return
        assert len(decoder._line.getvalue()) + sum(map(len, decoder._data)) <= limit


def test_a_line_that_comes_byte_by_byte_may_be_as_long_as_the_limit():
    decoder = Decoder(limit=200_000)
    for _ in range(200_000):
        assert decoder.feed(b"x") == []
    with pytest.raises(EventTooLongError, match="longer than 200000 characters"):
        decoder.feed(b"x")
