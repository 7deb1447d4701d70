"""Server-sent events against the standard, whatever way the bytes are cut."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.sse import Decoder, Event, EventTooLongError, encode

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["data", "data:", "data: ", ": comment", "", "event: x", "id: 1", "\ufeff"]
        ),
        st.builds("data: {}".format, st.text(st.characters(exclude_categories=["Cs"]))),
    )
)


def naive(text: str) -> list[Event]:
    """The whole stream at once, as the standard describes it."""
    found: list[Event] = []
    data: list[str] = []
    name = ""
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    for line in lines[:-1]:
        if line == "":
            if data:
                found.append(Event("\n".join(data), name))
            data, name = [], ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "data":
                data.append(value)
            if field == "event":
                name = value
    return found


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(p % (len(raw) + 1) for p in places)})
    return [raw[a:b] for a, b in pairwise(edges)]


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 500)))
def test_events_do_not_depend_on_how_the_bytes_arrive(lines, end, places):
    # A final carriage return may still become half of a pair, so a plain line ends every stream.
    text = end.join([*lines, "", ": end", ""]) + "\n"
    decoder = Decoder()
    found = [e for part in cut(text.encode(), places) for e in decoder.feed(part)]
    assert found == naive(text)


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


@given(st.binary(), st.lists(st.integers(0, 100)))
def test_no_bytes_break_the_decoder(raw, places):
    decoder, whole = Decoder(), Decoder()
    found = [e for part in cut(raw, places) for e in decoder.feed(part)]
    assert found == whole.feed(raw)


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 60))
def test_no_more_than_the_limit_is_ever_held(chunks, limit):
    decoder = Decoder(limit)
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except EventTooLongError:
            return
        assert len(decoder._buffer) + sum(map(len, decoder._data)) <= limit
