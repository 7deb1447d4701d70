"""Alarms of a real gateway: raised, told, posted, and acknowledged."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from wye.cli import app as cli
from wye.gateway.records import AlarmRecord, new_id
from wye.gateway.watch.identities import SETTLED, Identities

USUAL = "What is the sum of {n} and {m}?"
OTHER = "Write a sonnet about the winter sea near {n} lighthouses, in the style of {m}"


def found(served, **query) -> dict:
    answer = served.http.get("/api/alarms", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def kinds(served) -> list[str]:
    return [alarm["kind"] for alarm in found(served)["data"]]


@pytest.fixture
def hook() -> Iterator[tuple[str, list]]:
    """A place that takes what is posted, after failing once."""
    posted: list[dict] = []
    failed = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = 200 if failed else 503
            failed.append(True)
            if status == 200:
                posted.append(body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/alarm", posted
    server.shutdown()
    server.server_close()


def test_other_questions_raise_one_alarm_that_is_told_everywhere(
    serve, world, eventually, hook, caplog
):
    url, posted = hook
    served = serve(
        targets=[world.target("ok")],
        watch={
            "reference": 60, "false_alarm_every": 1000.0, "seconds": 0.05, "webhook": url,
            "answers": False,
        },
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "wye.gateway"):
        for n in range(80):
            served.ask(text=USUAL.format(n=n, m=n * 7))
        eventually(lambda: found(served)["monitors"][0]["seen"] == 80)
        state = found(served)["monitors"][0]
        assert (state["kind"], state["learning"], state["alarms"]) == ("traffic", False, 0)
        for n in range(60):
            served.ask(text=OTHER.format(n=n, m=n * 3))
        eventually(lambda: kinds(served) == ["traffic"])
    (alarm,) = found(served)["data"]
    assert "what people ask differs" in alarm["message"]
    assert 60 <= alarm["figures"]["since"] <= 100
    assert alarm["figures"]["at"] <= 140
    assert alarm["since"] is not None
    assert alarm["since"] <= alarm["time"]
    assert alarm["acknowledged"] is None
    assert found(served)["open_by_kind"] == {"traffic": 1}
    assert alarm["id"] in caplog.text
    assert "sonnet" not in caplog.text
    text = served.http.get("/metrics").text
    assert 'wye_alarms_total{kind="traffic"} 1.0' in text
    assert 'wye_alarms_open{kind="traffic"} 1.0' in text
    eventually(lambda: [one["id"] for one in posted] == [alarm["id"]])
    assert posted[0]["message"] == alarm["message"]


def test_a_text_or_a_conversation_counts_once(serve, world, eventually):
    served = serve(targets=[world.target("ok")], watch={"reference": 50, "seconds": 0.05})
    for n in range(30):
        served.ask(text="the same again")
        served.http.post(
            "/v1/chat/completions",
            json={"model": "wye", "messages": [{"role": "user", "content": f"and {n}"}]},
            headers={"x-wye-session": "one"},
        )
    served.ask(text="something else")
    eventually(lambda: found(served)["monitors"][0]["seen"] == 3)


def test_another_model_under_the_same_name_is_told_even_after_a_restart(serve, world, eventually):
    def ask(model: str):
        served = serve(
            targets=[world.target("best", model=model)], watch={"reference": 50, "seconds": 0.05}
        )
        for _ in range(3):
            assert served.ask().status_code == 200
        served.gateway.onlookers.watch.look()
        return served

    assert kinds(ask("ok@2026-01")) == []
    assert kinds(ask("ok@2026-01")) == []
    served = ask("ok@2026-09")
    eventually(lambda: kinds(served) == ["model"])
    (alarm,) = found(served)["data"]
    assert alarm["subject"] == "best"
    assert "answers as 'ok@2026-09', before as ok@2026-01" in alarm["message"]
    assert alarm["figures"]["fingerprint"] == "fp_outside"
    assert kinds(ask("ok@2026-01")) == ["model"]


def test_a_fingerprint_is_told_only_once_a_target_is_settled(serve, world):
    served = serve(targets=[world.target("ok")])
    known = Identities(served.gateway.store.engine)
    for n in range(5):
        assert known.take("t", "m", f"fp{n}") is None
    for _ in range(SETTLED):
        assert known.take("t", "m", "fp0") is None
    assert "fingerprint 'fp9'" in str(known.take("t", "m", "fp9"))
    assert known.take("t", "m", "fp9") is None
    # What one gateway has met, the others of its store know when they start.
    other = Identities(served.gateway.store.engine)
    assert other.take("t", "m", "fp9") is None
    assert "answers as 'm2'" in str(other.take("t", "m2", None))
    # Known by another process since: no harm, and nothing new here.
    assert "answers as 'm2'" in str(known.take("t", "m2", None))


def test_a_guard_that_refuses_too_much_raises_an_alarm(serve, world, eventually, guard_file):
    served = serve(
        targets=[world.target("ok")],
        guard={"path": str(guard_file)},
        watch={"seconds": 0.05, "false_alarm_every": 1000.0, "answers": False},
    )
    for n in range(30):
        served.ask(text=f"Wo finde ich in Leipzig einen guten Zahnarzt, der mir {n} Kronen macht?")
    eventually(lambda: kinds(served) == ["guard"])
    (alarm,) = found(served)["data"]
    assert alarm["figures"]["rejected"] <= 30
    assert alarm["figures"]["expected"] < 0.2
    # What lasts is told once, until somebody has taken notice.
    served.http.post(f"/api/alarms/{alarm['id']}/ack")
    for n in range(15):
        served.ask(text=f"Wo finde ich in Bremen {n} gute Bäcker und ihre Öffnungszeiten?")
    eventually(lambda: kinds(served) == ["guard", "guard"])
    assert found(served)["open_by_kind"] == {"guard": 1}


def test_promises_that_are_not_kept_raise_an_alarm(serve, world, eventually):
    served = serve(
        targets=[world.target("ok", quality=0.95)],
        watch={"false_alarm_every": 100.0, "seconds": 0.05, "traffic": False, "answers": False},
    )
    for n in range(60):
        answer = served.ask(text=f"question {n}")
        judged = {"decision": answer.headers["x-wye-decision"], "quality": 0.0}
        assert served.http.post("/v1/feedback", json=judged).status_code == 200
        if kinds(served):
            break
    eventually(lambda: "calibration" in kinds(served))
    alarm = found(served)["data"][-1]
    assert "promises too much" in alarm["message"]
    assert alarm["figures"]["gap"] < -0.5
    (state,) = found(served)["monitors"]
    assert state["kind"] == "calibration"
    assert state["subject"] == alarm["subject"]


def test_an_alarm_is_acknowledged_by_the_api_and_by_the_command_line(serve, world):
    served = serve(targets=[world.target("ok")])
    store = served.gateway.store
    first, second = (
        AlarmRecord(new_id(), 1.0 + n, "model", "ok", "answers as another") for n in range(2)
    )
    store.add(first)
    store.add(second)
    assert [a["id"] for a in found(served)["data"]] == [second.id, first.id]
    body = {"by": "ada", "note": "asked the provider"}
    answer = served.http.post(f"/api/alarms/{first.id}/ack", json=body)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["acknowledged_by"], told["note"]) == ("ada", "asked the provider")
    assert told["acknowledged"] > 0
    again = served.http.post(f"/api/alarms/{first.id}/ack", json={"by": "bob"}).json()
    assert again == told
    assert [a["id"] for a in found(served, open="true")["data"]] == [second.id]
    place = str(store.place)
    runner = CliRunner()
    listed = runner.invoke(cli, ["alarms", "list", "--store", place])
    assert second.id in listed.output
    assert first.id not in listed.output
    done = runner.invoke(cli, ["alarms", "ack", second.id, "--store", place, "--by", "eve"])
    assert done.exit_code == 0, done.output
    assert found(served)["open"] == 0
    everything = runner.invoke(cli, ["alarms", "list", "--all", "--json", "--store", place])
    assert {a["acknowledged_by"] for a in json.loads(everything.output)} == {"ada", "eve"}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/alarms/nothing/ack", {}, 404, "alarm_not_found"),
        ("/api/alarms/nothing/ack", {"by": 3}, 400, None),
        ("/api/alarms/nothing/ack", {"who": "ada"}, 400, None),
    ],
)
def test_what_cannot_be_acknowledged_says_why(serve, world, path, body, status, code):
    answer = serve(targets=[world.target("ok")]).http.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def test_alarms_need_no_watch_and_reject_wrong_questions(serve, world):
    served = serve(targets=[world.target("ok")])
    assert found(served) == {
        "object": "list", "open": 0, "open_by_kind": {}, "data": [], "monitors": [],
    }  # fmt: skip
    assert served.http.get("/api/alarms?open=maybe").status_code == 400
    assert served.http.get("/api/alarms?limit=0").status_code == 400


def test_an_acknowledgement_without_a_body_is_one(serve, world):
    served = serve(targets=[world.target("ok")])
    alarm = AlarmRecord(new_id(), 1.0, "model", None, "x")
    served.gateway.store.add(alarm)
    answer = served.http.post(f"/api/alarms/{alarm.id}/ack")
    assert answer.status_code == 200
    assert answer.json()["acknowledged_by"] is None
