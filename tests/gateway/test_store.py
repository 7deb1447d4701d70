"""The store: batches, a full disk, records that cannot be stored, and what a kill leaves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from wye.gateway.decision_search import latest
from wye.gateway.dialects import StoreError
from wye.gateway.records import DecisionRecord, FeedbackRecord, OutcomeRecord, new_id
from wye.gateway.reports import decision
from wye.gateway.schema import VERSION, connect, prompt_engine
from wye.gateway.store import Store


def a_decision(**changes) -> DecisionRecord:
    record = DecisionRecord(
        id=new_id(),
        time=1.0,
        requested="wye",
        policy_name="quality",
        policy="quality()",
        router="none",
        policy_version="0",
        target="one",
        propensity=1.0,
        candidates=(),
        excluded={},
        reasons=("because",),
        features={},
        text="hello",
        stream=False,
        router_cost_usd=0.0,
        router_seconds=float("nan"),
    )
    return replace(record, **changes)


def an_outcome(of: DecisionRecord) -> OutcomeRecord:
    return OutcomeRecord(of.id, 2.0, "one", "ok", 200, cost_usd=0.5, latency_s=0.1)


@pytest.fixture
def store(place):
    store = Store(place, batch_seconds=0.05)
    yield store
    store.close()


@pytest.fixture
def file_store(tmp_path):
    store = Store(tmp_path / "deep" / "log.db", batch_seconds=0.05)
    yield store
    store.close()


def test_what_is_added_is_read_back_whole(store):
    record = a_decision(text="né 😀", features={"words": 2.0, "needs": ["tools"]})
    store.add(record)
    store.add(an_outcome(record))
    store.add(FeedbackRecord(record.id, 3.0, 0.25, "meh"))
    assert store.flush()
    found = decision(store.engine, record.id)
    assert found["text"] == "né 😀"
    assert found["features"] == {"words": 2.0, "needs": ["tools"]}
    assert found["router_seconds"] is None
    assert found["outcome"]["cost_usd"] == 0.5
    assert [f["quality"] for f in found["feedback"]] == [0.25]


def test_records_reach_the_disk_by_themselves_within_the_batch_interval(store, eventually):
    store.add(a_decision())
    eventually(lambda: len(latest(store.engine, 10)) == 1)


def test_pages_of_decisions_follow_each_other_without_gap_or_overlap(store):
    records = [a_decision() for _ in range(25)]
    for record in records:
        store.add(record)
    store.flush()
    seen, before = [], None
    while page := latest(store.engine, 10, before):
        seen += [row["id"] for row in page]
        before = seen[-1]
    assert seen == [r.id for r in reversed(records)]


def test_nothing_is_lost_when_many_threads_write_and_the_store_is_closed(place):
    store = Store(place, batch_seconds=5)
    threads = [
        threading.Thread(target=lambda: [store.add(a_decision()) for _ in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert store.health().lost == 0
    again = Store(place)
    assert len(latest(again.engine, 1000)) == 800
    again.close()


def test_the_latest_feedback_counts(store):
    record = a_decision()
    store.add(record)
    for quality in (0.0, 1.0, 0.5):
        store.add(FeedbackRecord(record.id, 1.0, quality))
    store.flush()
    assert latest(store.engine, 1)[0]["quality"] == 0.5


def fill_the_disk(store: Store, full: bool) -> None:
    """Let SQLite itself refuse to grow its file, as it does on a full disk."""
    with store.engine.connect() as connection:
        pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
    store.engine.dispose()

    @sa.event.listens_for(store.engine, "connect")
    def _limit(connection, _record):
        limit = pages if full else 1_000_000_000
        connection.execute(f"PRAGMA max_page_count={limit}")


def test_a_full_disk_is_told_and_what_waits_is_written_once_there_is_room(file_store):
    fill_the_disk(file_store, full=True)
    records = [a_decision(text="x" * 5000) for _ in range(20)]
    for record in records:
        file_store.add(record)
    assert not file_store.flush()
    health = file_store.health()
    assert not health.ok
    assert health.lost == 0
    assert health.pending == 20
    assert "full" in health.error
    fill_the_disk(file_store, full=False)
    assert file_store.flush()
    assert file_store.health().ok
    assert len(latest(file_store.engine, 100)) == 20


def test_a_disk_that_stays_full_costs_the_oldest_records_and_they_are_counted(tmp_path):
    store = Store(tmp_path / "log.db", batch_seconds=0.05, max_pending=10)
    fill_the_disk(store, full=True)
    records = [a_decision(text="x" * 5000) for _ in range(25)]
    for record in records:
        store.add(record)
    assert not store.flush()
    health = store.health()
    assert (health.lost, health.pending) == (15, 10)
    fill_the_disk(store, full=False)
    assert store.flush()
    assert {row["id"] for row in latest(store.engine, 100)} == {r.id for r in records[15:]}
    fill_the_disk(store, full=True)
    store.add(a_decision(text="x" * 500_000))
    store.close()
    assert store.health().lost == 16


def test_one_record_that_cannot_be_stored_takes_no_other_with_it(store):
    good, bad = a_decision(), a_decision(features={"unserialisable": object()})
    for record in (good, bad, an_outcome(good)):
        store.add(record)
    store.flush()
    assert store.health().lost == 1
    assert decision(store.engine, good.id)["outcome"]["status"] == "ok"
    assert decision(store.engine, bad.id) is None


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, " * 100)
    with pytest.raises(StoreError, match=r"store\.path"):
        Store(path)
    assert path.read_text() == "these are my notes, " * 100


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("version", [0, 1, VERSION, VERSION + 1])
def test_the_database_of_another_program_is_left_as_it_is(tmp_path, create, version):
    path = tmp_path / "theirs.db"
    theirs = sa.create_engine(f"sqlite:///{path}")
    with theirs.begin() as connection:
        connection.execute(sa.text("CREATE TABLE bookmarks (url TEXT)"))
        # Every program may number its own formats there.
        connection.execute(sa.text(f"PRAGMA user_version={version}"))
    theirs.dispose()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="holds the tables bookmarks of another program"):
        connect(path, create=create)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.db"]


def test_a_store_is_written_ahead_so_that_readers_do_not_wait(tmp_path):
    path = tmp_path / "log.db"
    for _ in range(2):
        engine = connect(path)
        for each in (engine, prompt_engine(engine)):
            with each.connect() as connection:
                assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
            each.dispose()


def test_gateways_that_start_together_on_a_new_file_all_open_it(tmp_path):
    """They meet seldom where they would be in each other's way, so it is tried often."""
    for turn in range(50):
        together = threading.Barrier(6)

        def start(path=tmp_path / f"{turn}.db", together=together) -> None:
            together.wait()
            connect(path).dispose()

        with ThreadPoolExecutor(6) as gateways:
            for started in [gateways.submit(start) for _ in range(6)]:
                started.result()


def test_who_only_reads_makes_no_store_of_an_empty_file(tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(StoreError, match="is empty and no store"):
        connect(path, create=False)
    assert path.read_bytes() == b""
    connect(path).dispose()
    connect(path, create=False).dispose()


def test_a_store_of_another_version_is_refused(tmp_path):
    Store(tmp_path / "log.db").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'log.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text(f"PRAGMA user_version={VERSION + 1}"))
    engine.dispose()
    with pytest.raises(StoreError, match="another version"):
        Store(tmp_path / "log.db")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "file" / "log.db")


def test_what_comes_after_closing_is_counted_as_lost(tmp_path):
    store = Store(tmp_path / "log.db")
    store.close()
    store.add(a_decision())
    assert store.health().lost == 1
