"""Answers outlive a gateway, and others of its store find them, where texts may be stored."""

from __future__ import annotations

import httpx
import pytest
import sqlalchemy as sa

from wye.gateway.answer_cache.answers import Answer
from wye.gateway.answer_cache.shelf import Shelf
from wye.gateway.answer_cache.tables import answers
from wye.gateway.store import Store

HIT, MISS = "exact", "miss"


def ask(served, text="What is 6 x 7?", **fields) -> httpx.Response:
    return served.ask(text=text, **fields)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-wye-cache"]


def stored(served) -> int:
    assert served.gateway.store.flush()
    with served.gateway.store.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(answers)).scalar_one()


@pytest.mark.parametrize("stream", [False, True])
def test_another_gateway_of_the_store_gives_the_answer(cached, stream):
    one, asked = cached()
    other, _ = cached()
    first = ask(one, stream=stream)
    assert said(first) == MISS
    assert stored(one) == 1
    second = ask(other, stream=stream)
    assert said(second) == HIT
    assert second.text == first.text
    assert asked() == 1
    decision = other.decision(second)
    assert decision["reasons"][0].endswith(first.headers["x-wye-decision"])
    assert decision["outcome"]["cost_usd"] == 0.0


def test_answers_outlive_the_gateway_and_are_found_by_likeness_again(cached):
    served, asked = cached(cache={"semantic": True})
    assert said(ask(served, "How do I cook a soft egg?")) == MISS
    served.stop()
    again, _ = cached(cache={"semantic": True})
    assert said(ask(again, "How can I cook a soft egg?")) == "semantic"
    assert said(ask(again, "How do I cook a soft egg?")) == HIT
    assert asked() == 1


@pytest.mark.parametrize(
    "values",
    [
        {"store": {"store_prompts": False}},
        {"cache": {"keep_in_store": False}},
        {"logs": {"redact": ["email"], "redact_store": True}},
    ],
)
def test_where_texts_are_not_stored_answers_stay_in_memory(cached, values):
    served, _ = cached(**values)
    assert [said(ask(served)) for _ in range(2)] == [MISS, HIT]
    assert stored(served) == 0


def test_the_shelf_is_bounded_by_time_and_size(tmp_path):
    store = Store(tmp_path / "s.db")
    shelf = Shelf(store, max_bytes=1000, ttl_seconds=100)
    for number in range(10):
        name = str(number)
        shelf.add(Answer(name, name, "t", 10.0 * number, b"x" * 300, None))
    assert store.flush()
    assert shelf.find("9", now=95.0) is not None
    assert shelf.find("0", now=99.0) is not None
    assert shelf.find("0", now=100.0) is None
    # What a clock that went back makes later than now is not good either.
    assert shelf.find("9", now=50.0) is None
    shelf.sweep(now=125.0)
    with store.engine.connect() as connection:
        left = list(connection.execute(sa.select(answers.c.key).order_by("time")).scalars())
    assert left == ["7", "8", "9"]
    store.close()


def test_the_latest_answer_to_a_question_counts(tmp_path):
    store = Store(tmp_path / "s.db")
    shelf = Shelf(store, max_bytes=1e6, ttl_seconds=100)
    for number in (1, 3, 2):
        shelf.add(Answer("k", str(number), "t", float(number), str(number).encode(), 0.5))
    assert store.flush()
    found = shelf.find("k", now=10.0)
    assert (found.content, found.baseline_usd, found.vector) == (b"3", 0.5, None)
    assert [a.decision_id for a in shelf.newest(now=10.0)] == ["1", "2", "3"]
    store.close()


def test_a_store_that_cannot_be_read_costs_nothing_but_the_look_up(cached, monkeypatch):
    served, asked = cached()
    monkeypatch.setattr(served.gateway.store.engine, "connect", _broken, raising=True)
    assert [said(ask(served)) for _ in range(2)] == [MISS, HIT]
    assert asked() == 1


def _broken(*_args, **_kwargs):
    raise sa.exc.OperationalError("SELECT", {}, Exception("disk I/O error"))
