"""What is kept stays within its bounds, and is found again as a plain search finds it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.gateway.answer_cache.answers import Answer, Answers

TTL = 100.0


def answer(key: str, time: float, size: int = 0, group: str | None = None, seed: int = 0) -> Answer:
    vector = None
    if group is not None:
        drawn = np.random.default_rng(seed).normal(size=4)
        vector = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return Answer(key, "id", "target", time, b"x" * size, None, group, "text", vector)


steps = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.integers(0, 3000),
        st.sampled_from([None, "g", "h"]),
        st.integers(0, 30),
        st.floats(0, 40),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_memory_is_bounded_and_every_look_up_is_what_a_plain_search_gives(steps):
    kept, now, plain = Answers(8192, TTL), 0.0, {}
    for key, size, group, seed, passed in steps:
        now += passed
        put = answer(key, now, size, group, seed)
        kept.put(put, now)
        plain[key] = put
        assert kept.bytes <= 8192
        assert kept.get(key, now) is put
    held = {key: kept.get(key, now) for key in plain}
    for key, found in held.items():
        # Nothing but the latest answer to a question, and nothing that is over.
        assert found is None or (found is plain[key] and now - found.time < TTL)
    assert kept.bytes == sum(found.size for found in held.values() if found is not None)
    for group in ("g", "h"):
        asked = answer("?", now, group=group, seed=99).vector
        near = kept.like(group, asked, 0.2, now)
        members = [a for a in held.values() if a is not None and a.group == group]
        expected = {a.key for a in members if float(a.vector @ asked) >= 0.2}
        assert {a.key for a, _ in near} == expected
        cosines = [cosine for _, cosine in near]
        assert cosines == sorted(cosines, reverse=True)


def test_the_least_recently_used_goes_first():
    kept = Answers(3 * answer("a", 0.0).size, TTL)
    for key in "abc":
        kept.put(answer(key, 0.0), 0.0)
    assert kept.get("a", 1.0) is not None
    kept.put(answer("d", 1.0), 1.0)
    assert [kept.get(key, 1.0) is not None for key in "abcd"] == [True, False, True, True]


def test_an_answer_that_is_over_by_the_time_it_is_put_is_not_kept():
    kept = Answers(10_000, TTL)
    kept.put(answer("a", 0.0), TTL)
    assert (kept.get("a", TTL), len(kept), kept.bytes) == (None, 0, 0)
    kept.put(answer("b", 5.0), TTL)
    assert kept.get("b", TTL) is not None


def test_an_answer_larger_than_the_cache_takes_the_place_of_none():
    kept = Answers(2 * answer("a", 0.0).size, TTL)
    kept.put(answer("a", 0.0), 0.0)
    kept.put(answer("b", 0.0, size=10_000), 0.0)
    assert kept.get("a", 0.0) is not None
    assert kept.get("b", 0.0) is None
    assert len(kept) == 1
