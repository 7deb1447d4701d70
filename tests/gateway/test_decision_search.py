"""Decisions are found by what they were about, page by page, as a plain filter would find them."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway import decision_search
from wye.gateway.decision_search import Filter, search
from wye.gateway.records import DecisionRecord, FeedbackRecord, OutcomeRecord, new_id
from wye.gateway.store import Store

STATUSES = ("ok", "error", "cancelled", None)


def decision(number: int, began: float) -> DecisionRecord:
    return DecisionRecord(
        id=new_id(),
        time=began + number,
        requested="wye",
        policy_name=("cheap", "best")[number % 2],
        policy="quality()",
        router="none",
        policy_version="1",
        target=("small", "large", None)[number % 3],
        propensity=1.0,
        candidates=(),
        excluded={},
        reasons=("it is best",),
        features={"surface": ("chat", "messages")[number % 5 == 0]},
        text=f"Question {number} 100%_sure" if number % 4 else None,
        stream=False,
        router_cost_usd=0.0,
        router_seconds=0.001,
        key_id=(None, "key-1", "key-2")[number % 3],
        session=("s1", None)[number % 2],
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("search") / "gateway.db", batch_seconds=0.01)
    began = time.time() - 60
    records = [decision(number, began) for number in range(60)]
    outcomes = {}
    for number, record in enumerate(records):
        store.add(record)
        status = STATUSES[number % 4]
        if status is not None:
            # Every seventh fell back to another target than was chosen.
            target = "spare" if number % 7 == 0 else record.target
            outcomes[record.id] = OutcomeRecord(record.id, record.time, target, status, 200)
            store.add(outcomes[record.id])
        if number % 6 == 0:
            store.add(FeedbackRecord(record.id, record.time, 0.25))
            store.add(FeedbackRecord(record.id, record.time, 0.75))
    assert store.flush()
    yield store, records, outcomes
    store.close()


def passes(record, outcome, wanted: Filter) -> bool:
    """The filter as plain words have it."""
    served = (outcome.target if outcome else None) or record.target
    checks = {
        "since": lambda v: record.time >= v,
        "until": lambda v: record.time < v,
        "target": lambda v: served == v,
        "policy": lambda v: record.policy_name == v,
        "key": lambda v: record.key_id == v,
        "session": lambda v: record.session == v,
        "status": lambda v: (outcome.status if outcome else "pending") == v,
        "surface": lambda v: record.features["surface"] == v,
        "text": lambda v: v.lower() in (record.text or "").lower(),
    }
    return all(v is None or checks[name](v) for name, v in vars(wanted).items())


def maybe(*values):
    return st.sampled_from([None, *values])


@given(data=st.data())
def test_pages_hold_what_passes_the_filter_once_and_newest_first(stored, data):
    store, records, outcomes = stored
    times = [records[k].time for k in (0, 13, 30, 59)]
    wanted = Filter(
        since=data.draw(maybe(*times)),
        until=data.draw(maybe(*times)),
        target=data.draw(maybe("small", "spare", "nobody")),
        policy=data.draw(maybe("cheap", "best")),
        key=data.draw(maybe("key-1", "key-2")),
        session=data.draw(maybe("s1")),
        status=data.draw(maybe("ok", "error", "pending")),
        surface=data.draw(maybe("chat", "messages")),
        text=data.draw(maybe("question 1", "100%", "_SURE", "1_0")),
    )
    limit = data.draw(st.integers(1, 25))
    found, before = [], None
    for _ in itertools.count():
        page = search(store.engine, wanted, limit, before)
        assert len(page.data) <= limit
        found += [row["id"] for row in page.data]
        if page.next is None:
            break
        before = page.next
    expected = [r.id for r in records if passes(r, outcomes.get(r.id), wanted)]
    assert found == sorted(expected, reverse=True)


def test_a_filter_that_matches_little_stops_and_says_where_to_go_on(stored, monkeypatch):
    store, records, _ = stored
    monkeypatch.setattr(decision_search, "SCANNED", 10)
    page = search(store.engine, Filter(text="Question 1 "), 5)
    assert page.data == []
    assert page.next == records[50].id
    assert page.reached == records[50].time
    seen = []
    while page.next is not None:
        page = search(store.engine, Filter(text="Question 1 "), 5, page.next)
        seen += page.data
    assert [row["text"] for row in seen] == ["Question 1 100%_sure"]


def test_a_row_says_what_a_list_shows(stored):
    store, records, _ = stored
    row = search(store.engine, Filter(until=records[1].time), 5).data[0]
    assert row["id"] == records[0].id
    assert row["target"] == "spare"
    assert row["chosen"] == "small"
    assert row["quality"] == 0.75, "the latest feedback counts"
    assert row["session"] == "s1"
    assert row["surface"] == "messages"


def test_every_filter_is_understood_by_every_database(place):
    store = Store(place, batch_seconds=0.01)
    began = time.time() - 60
    records = [decision(number, began) for number in range(12)]
    for record in records:
        store.add(record)
        store.add(OutcomeRecord(record.id, record.time, record.target, "ok", 200))
    assert store.flush()
    wanted = Filter(
        since=records[2].time,
        until=records[11].time,
        target="large",
        policy="best",
        key="key-1",
        status="ok",
        surface="chat",
        text="question 7 100%_SURE",
    )
    found = search(store.engine, wanted, 5).data
    assert [row["id"] for row in found] == [records[7].id]
    assert len(search(store.engine, Filter(session="s1"), 25).data) == 6
    store.close()
