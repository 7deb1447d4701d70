"""Rolling back over HTTP: what `wye rollback` does, for the administrator alone, and logged."""

from __future__ import annotations

import logging

import pytest

from wye.gateway.learning.versions import VersionBook


@pytest.fixture
def served(serve, world):
    return serve(targets=[world.target("ok")])


def test_what_decided_before_decides_again(served, eventually, caplog):
    book = VersionBook(served.gateway.store.engine)
    eventually(lambda: bool(book.all()))
    own = book.all()[0].id
    book.use(own, "try it")
    with caplog.at_level(logging.WARNING, "wye.gateway.audit"):
        answer = served.http.post("/api/rollback", json={"note": "it was worse"})
    assert answer.json() == {"version": None, "ended": []}
    assert book.wanted().version is None
    assert book.uses()[0].reason == "it was worse"
    assert any("rolled back" in record.getMessage() for record in caplog.records)


def test_where_nothing_decided_before_it_says_so(served):
    answer = served.http.post("/api/rollback", json={})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_rollback"


@pytest.mark.parametrize("body", [{"note": 5}, {"note": "x" * 501}, {"to": "v1"}])
def test_a_wrong_order_is_refused(served, body):
    assert served.http.post("/api/rollback", json=body).status_code == 400


def test_no_page_from_elsewhere_rolls_back(served):
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert served.http.post("/api/rollback", json={}, headers=headers).status_code == 403
    assert served.http.post("/api/rollback", content=b"{}").status_code == 415
