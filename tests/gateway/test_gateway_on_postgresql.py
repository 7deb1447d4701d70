"""The whole gateway with its store in PostgreSQL: every reader of it gives what it should."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wye.cli import app
from wye.data import DataError
from wye.gateway.log_data import read_log
from wye.gateway.logged_traffic import read_traffic
from wye.query.off_policy import OffPolicyError


@pytest.fixture
def url(postgresql) -> str:
    return postgresql.url(postgresql.database())


@pytest.fixture
def served(serve, world, url):
    return serve(
        store={"url": url, "batch_seconds": 0.05},
        targets=[
            world.target("cheap", model="ok@cheap", quality=0.6),
            world.target("good", model="ok@good", quality=0.9, price_out_per_mtok=20.0),
        ],
        policies={"curious": {"kind": "explore", "epsilon": 1.0, "inner": {"kind": "quality"}}},
    )


def test_every_page_and_every_reader_of_the_log_works(served, url):
    served.gateway.store.flush()
    for empty in ("/api/summary", "/api/series?bucket=60", "/api/frontier", "/api/calibration"):
        assert served.http.get(empty).status_code == 200, empty
    answers = [served.ask(text=f"What is {i} + {i}?") for i in range(12)]
    for i, answer in enumerate(answers):
        body = {"decision": answer.headers["x-wye-decision"], "quality": i / 12}
        assert served.http.post("/v1/feedback", json=body).status_code == 200
    assert served.gateway.store.flush()
    found = served.decision(answers[3])
    assert found["feedback"][0]["quality"] == 3 / 12
    listed = served.http.get("/v1/decisions?limit=5").json()["data"]
    assert [row["id"] for row in listed] == [a.headers["x-wye-decision"] for a in answers[:6:-1]]
    for page in (
        "/api/series?bucket=60",
        "/api/frontier",
        "/api/calibration",
        "/api/targets",
        "/api/alarms",
    ):
        assert served.http.get(page).status_code == 200, page
    summary = served.http.get("/api/summary").json()
    assert summary["requests"] == 12
    buckets = served.http.get("/api/series?bucket=1").json()
    assert sum(bucket["requests"] for bucket in buckets) == 12
    wanted = {"status": "ok", "surface": "chat", "text": "+ 11"}
    (one,) = served.http.get("/api/decisions", params=wanted).json()["data"]
    assert one["id"] == answers[11].headers["x-wye-decision"]
    assert served.http.get("/healthz").json()["store"]["ok"]
    data = read_log(url)
    assert len(data) == 12
    assert data.name.startswith("test_")
    assert (data.outcomes["propensity"] == 0.5).all()
    assert len(read_traffic(url)) == 12


def test_the_command_line_takes_the_address_wherever_it_takes_a_file(served, url, tmp_path):
    for i in range(40):
        answer = served.ask(text=f"What is {i} + {i}?")
        quality = 1.0 if answer.headers["x-wye-target"] == "good" else 0.25
        body = {"decision": answer.headers["x-wye-decision"], "quality": quality}
        served.http.post("/v1/feedback", json=body)
    assert served.gateway.store.flush()
    run = CliRunner().invoke
    made = run(app, ["keys", "add", "one", "--budget-total", "2", "--store", url])
    assert made.exit_code == 0, made.output
    shown = run(app, ["keys", "show", "one", "--json", "--store", url])
    assert json.loads(shown.stdout)["limits"]["budget_total"] == 2.0
    replayed = run(app, ["replay", url, "--policy", "quality", "--direct", "none", "--json"])
    assert replayed.exit_code == 0, replayed.output
    out = str(tmp_path / "router")
    trained = run(app, ["train", "--from-log", url, "--router", "constant", "-o", out])
    assert trained.exit_code == 0, trained.output
    refused = run(app, ["keys", "list", "--store", "postgresql://wye:secret@127.0.0.1/wye"])
    assert refused.exit_code != 0


def test_while_the_server_is_away_every_page_says_so_and_answers_go_on(served, postgresql, caplog):
    decision = served.ask().headers["x-wye-decision"]
    pages = ["/api/summary", "/api/targets", "/api/decisions", "/api/experiments", "/v1/decisions"]
    pages += [f"/v1/decisions/{decision}", f"/api/decisions/{decision}/replay?policy=curious"]
    judged = {"decision": decision, "quality": 1.0}
    postgresql.stop()
    try:
        assert served.ask().status_code == 200
        told = [served.http.get(page) for page in pages]
        told.append(served.http.post("/v1/feedback", json=judged))
        for answer in told:
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"] == "5"
            said = answer.json()["error"]
            assert said["code"] == "store_unavailable"
            # Addresses are for the log, which is told once and not by every page.
            assert "socket" not in said["message"]
        assert not any(record.exc_info for record in caplog.records)
    finally:
        postgresql.start()
    assert served.http.post("/v1/feedback", json=judged).status_code == 200
    assert all(served.http.get(page).status_code == 200 for page in pages)


def test_a_store_that_is_not_there_is_told_as_each_reader_tells_its_errors():
    nowhere = "postgresql://wye@127.0.0.1:9/wye"
    with pytest.raises(DataError, match="check that the server runs"):
        read_log(nowhere)
    with pytest.raises(OffPolicyError, match="check that the server runs"):
        read_traffic(nowhere)
